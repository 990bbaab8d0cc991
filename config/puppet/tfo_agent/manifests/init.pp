# The TCP Fast Open keys of this host, shared with its fleet.
#
# @param config  The whole agent.toml; /usr/share/tfo-fleet/agent.toml explains every key.  Needed without a token.
# @param token   The line of `tfoctl token create`: the host joins its coordinator's fleet, and gets its configuration by that.
# @param token_file  Where the token lies on the host.  Without `token` something else puts it there.
# @param node_name   The node's name in the fleet, if it is not the host's.
# @param mode    daemon: tfo-agent.service, timer: tfo-agent-once.timer, once: only when puppet runs.
# @param secret  The shared secret, 32 bytes or more; undef = it is put in place by something else.
# @param secret_file  Where the secret lies, as `config` names it.
# @param manage_package  false where the package is installed already.
class tfo_agent (
  Optional[String] $config = undef,
  Optional[Sensitive[String]] $token = undef,
  Optional[Pattern[/\A\/[\w.\/-]+\z/]] $token_file = undef,
  Optional[Pattern[/\A[a-z0-9.-]+\z/]] $node_name = undef,
  Enum['daemon', 'timer', 'once'] $mode = 'daemon',
  Optional[Variant[Sensitive[String], Sensitive[Binary]]] $secret = undef,
  Pattern[/^\//] $secret_file = '/etc/tfo-fleet/fleet.secret',
  Boolean $manage_package = true,
) {
  if !$config and !$token and !$token_file {
    fail('tfo_agent needs token, token_file or config')
  }

  if $manage_package {
    package { 'tfo-agent':
      ensure => installed,
      before => File['/etc/tfo-fleet'],
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
      notify       => Exec['tfo-agent reload'],
      before       => [Service['tfo-agent.service'], Service['tfo-agent-once.timer']],
    }
  }

  if $token or $token_file {
    $place = $token_file ? { undef => '/etc/tfo-fleet/token', default => $token_file }
    $join = "/usr/bin/tfo-agent join --if-needed --token-file ${place}"
    $named = $node_name ? { undef => '', default => " --name ${node_name}" }

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
      command  => "${join}${named}",
      unless   => "test -x /usr/bin/tfo-agent && ${join}${named} --dry-run --detailed-exit-codes > /dev/null",
      provider => shell,
      require  => File['/etc/tfo-fleet'],
      before   => [Service['tfo-agent.service'], Service['tfo-agent-once.timer']],
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
      command => '/usr/bin/tfo-agent once',
      unless  => '/usr/bin/tfo-agent once --dry-run --detailed-exit-codes > /dev/null',
      require => Service['tfo-agent.service'],
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
