# The coordinator of a fleet with one TCP Fast Open key: authority, keys, configuration and service, made once.
#
# Tokens for the nodes are made by operators (`tfoctl token create`), and kept where Puppet keeps secrets.
#
# @param coordinator_name  The coordinator's DNS name, by which nodes and operators connect.
# @param addresses  IP addresses by which it is reached besides.
# @param pool       The first pool; undef = what `tfo-coordinator init` chooses.
# @param nodes      Names of its nodes, with * for any characters; [] = what `tfo-coordinator init` chooses.
# @param manage_package  false where the packages are installed already.
class tfo_coordinator (
  Pattern[/\A[a-z0-9.-]+\z/] $coordinator_name = $trusted['certname'],
  Array[Pattern[/\A[0-9a-f.:]+\z/]] $addresses = [],
  Optional[Pattern[/\A[a-z0-9._-]+\z/]] $pool = undef,
  Array[Pattern[/\A[a-z0-9.*-]+\z/]] $nodes = [],
  Boolean $manage_package = true,
) {
  if $manage_package {
    package { ['tfo-coordinator', 'tfoctl']:
      ensure => installed,
      before => Exec['tfo-coordinator init'],
    }
  }

  $in_pool = $pool ? { undef => [], default => ['--pool', $pool] }
  $reached = $addresses.map |$one| { ['--address', $one] }
  $for_nodes = $nodes.map |$one| { ['--nodes', $one] }

  # It overwrites nothing, and a whole second run does nothing.  The configuration is written last, so a run that was cut
  # off is finished by the next one.
  exec { 'tfo-coordinator init':
    command => flatten(['/usr/bin/tfo-coordinator', 'init', '--name', $coordinator_name, $reached, $in_pool, $for_nodes]),
    unless  => '/usr/bin/grep -q "^ca_key" /etc/tfo-fleet/coordinator.toml',
    before  => Service['tfo-coordinator.service'],
  }

  service { 'tfo-coordinator.service':
    ensure => running,
    enable => true,
  }
}
