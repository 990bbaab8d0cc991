# @summary Makes a host a node: its TCP Fast Open keys are those of its fleet.
#
# The host joins its coordinator's fleet by a token, makes its keys from a secret that all hosts share, or does what `config`
# says.  Puppet writes no key: `tfo-agent` does, and with `--noop` it is asked what it would do.
#
# Hiera is the place of token and secret; they are plain strings there, and Sensitive from the lookup on.
#
# @example A node that joins by a token (tfo_fleet::agent::token in Hiera)
#   include tfo_fleet::agent
#
# @example Keys from a shared secret (tfo_fleet::agent::secret in Hiera), by the timer
#   class { 'tfo_fleet::agent':
#     mode   => 'timer',
#     config => file('profile/agent.toml'),
#   }
#
# @param token
#   The line of `tfoctl token create`: the host gets a certificate and its configuration by that.
# @param token_file
#   Where the token lies on the host. Without `token`, something else puts it there.
# @param node_name
#   The node's name in the fleet, if it is not the host's.
# @param config
#   The whole agent.toml; /usr/share/tfo-fleet/agent.toml explains every key. Needed without a token.
# @param mode
#   How the agent runs.
# @param secret
#   The shared secret, 32 bytes or more. Without it, something else puts it in place.
# @param secret_file
#   Where the secret lies, as `config` names it.
# @param manage_package
#   Whether the class installs the package tfo-agent.
# @param package_file
#   The package on the host. Without it, the package comes from the host's repositories.
class tfo_fleet::agent (
  Optional[Sensitive[String]] $token = undef,
  Optional[Tfo_fleet::Place] $token_file = undef,
  Optional[Tfo_fleet::Hostname] $node_name = undef,
  Optional[String[1]] $config = undef,
  Tfo_fleet::Mode $mode = 'daemon',
  Optional[Tfo_fleet::Secret] $secret = undef,
  Tfo_fleet::Place $secret_file = '/etc/tfo-fleet/fleet.secret',
  Boolean $manage_package = true,
  Optional[Tfo_fleet::Deb] $package_file = undef,
) {
  if !$config and !$token and !$token_file {
    fail('tfo_fleet::agent needs token, token_file or config')
  }

  # A type of Sensitive knows no length.
  if $secret =~ Sensitive[String] and $secret.unwrap.length < 32 {
    fail('tfo_fleet::agent: the secret has fewer than 32 bytes')
  }

  if $manage_package {
    $provider = $package_file ? { undef => undef, default => 'dpkg' }
    package { 'tfo-agent':
      ensure   => installed,
      provider => $provider,
      source   => $package_file,
      before   => File['/etc/tfo-fleet'],
    }
  }

  file { '/etc/tfo-fleet':
    ensure => directory,
    owner  => 'root',
    group  => 'root',
    mode   => '0755',
  }

  if $secret {
    file { $secret_file:
      ensure    => file,
      owner     => 'root',
      group     => 'root',
      mode      => '0400',
      content   => $secret,
      show_diff => false,
      backup    => false,
      require   => File['/etc/tfo-fleet'],
      notify    => Exec['tfo-agent reload'],
      before    => Service['tfo-agent.service'],
    }
    if $config {
      File[$secret_file] -> File['/etc/tfo-fleet/agent.toml']
    }
  }

  if $config {
    # A broken configuration never gets there.
    file { '/etc/tfo-fleet/agent.toml':
      ensure       => file,
      owner        => 'root',
      group        => 'root',
      mode         => '0644',
      content      => $config,
      validate_cmd => '/usr/bin/tfo-agent check --config-only --config %',
      require      => File['/etc/tfo-fleet'],
      notify       => Exec['tfo-agent reload'],
      before       => Service['tfo-agent.service', 'tfo-agent-once.timer'],
    }
  }

  if $token or $token_file {
    $place = $token_file ? { undef => '/etc/tfo-fleet/token', default => $token_file }
    $named = $node_name ? { undef => '', default => " --name ${node_name}" }
    $join = "/usr/bin/tfo-agent join --if-needed --token-file ${place}${named}"

    if $token {
      file { $place:
        ensure    => file,
        owner     => 'root',
        group     => 'root',
        mode      => '0400',
        content   => $token,
        show_diff => false,
        backup    => false,
        require   => File['/etc/tfo-fleet'],
        before    => Exec['tfo-agent join'],
      }
    }

    # `unless` asks the program, with --noop, too: 0 = there is a good certificate.  A host that is new to Puppet may not have
    # the program yet.
    exec { 'tfo-agent join':
      command  => $join,
      unless   => "test -x /usr/bin/tfo-agent && ${join} --dry-run --detailed-exit-codes > /dev/null",
      provider => shell,
      require  => File['/etc/tfo-fleet'],
      before   => Service['tfo-agent.service', 'tfo-agent-once.timer'],
    }
    if $config {
      File['/etc/tfo-fleet/agent.toml'] -> Exec['tfo-agent join']
    }
  }

  exec { 'tfo-agent reload':
    command     => '/bin/systemctl reload tfo-agent.service',
    onlyif      => '/bin/systemctl --quiet is-active tfo-agent.service',
    refreshonly => true,
  }

  if $mode != 'daemon' {
    # 0 = nothing to do.  Not run beside a daemon, which does it itself.
    exec { 'tfo-agent once':
      command  => '/usr/bin/tfo-agent once',
      unless   => 'test -x /usr/bin/tfo-agent && /usr/bin/tfo-agent once --dry-run --detailed-exit-codes > /dev/null',
      provider => shell,
      require  => Service['tfo-agent.service'],
    }
  }

  service { 'tfo-agent.service':
    ensure  => $mode == 'daemon',
    enable  => $mode == 'daemon',
    require => File['/etc/tfo-fleet'],
  }

  service { 'tfo-agent-once.timer':
    ensure  => $mode == 'timer',
    enable  => $mode == 'timer',
    require => File['/etc/tfo-fleet'],
  }
}
