# @summary Makes a host the coordinator of a fleet: authority, keys, configuration and service, made once.
#
# What exists is not overwritten; coordinator.toml is the operator's from then on.  Tokens for the nodes are made by operators
# (`tfoctl token create`), and kept where Puppet keeps secrets.
#
# @example The coordinator of all nodes whose names begin with cp
#   class { 'tfo_fleet::coordinator':
#     nodes => ['cp*.example.org'],
#   }
#
# @param coordinator_name
#   The coordinator's DNS name, by which nodes and operators connect.
# @param addresses
#   IP addresses by which it is reached besides.
# @param pool
#   The first pool. Without it, `tfo-coordinator init` chooses its name.
# @param nodes
#   The names of its nodes. If it is empty, they are the hosts of the coordinator's domain.
# @param manage_package
#   Whether the class installs the packages tfo-coordinator and tfoctl.
# @param package_files
#   Both packages on the host, by their names. Without it, they come from the host's repositories.
class tfo_fleet::coordinator (
  Tfo_fleet::Hostname $coordinator_name = $trusted['certname'],
  Array[Tfo_fleet::Address] $addresses = [],
  Optional[Tfo_fleet::Pool] $pool = undef,
  Array[Tfo_fleet::Nodes] $nodes = [],
  Boolean $manage_package = true,
  Optional[Struct[{ 'tfo-coordinator' => Tfo_fleet::Deb, 'tfoctl' => Tfo_fleet::Deb }]] $package_files = undef,
) {
  if $manage_package {
    ['tfoctl', 'tfo-coordinator'].each |$name| {
      $provider = $package_files ? { undef => undef, default => 'dpkg' }
      $source = $package_files ? { undef => undef, default => $package_files[$name] }
      package { $name:
        ensure   => installed,
        provider => $provider,
        source   => $source,
        before   => Exec['tfo-coordinator init'],
      }
    }
  }

  $in_pool = $pool ? { undef => [], default => ['--pool', $pool] }
  $reached = $addresses.map |$one| { ['--address', $one] }
  $for_nodes = $nodes.map |$one| { ['--nodes', $one] }

  # The configuration is written last, so a run that was cut off is finished by the next one.
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
