# The TCP Fast Open keys of this host, shared with its fleet.
#
# @param config  The whole agent.toml; /usr/share/tfo-fleet/agent.toml explains every key.
# @param mode    daemon: tfo-agent.service, timer: tfo-agent-once.timer, once: only when puppet runs.
# @param secret  The shared secret, 32 bytes or more; undef = it is put in place by something else.
# @param secret_file  Where the secret lies, as `config` names it.
# @param manage_package  false where the package is installed already.
class tfo_agent (
  String $config,
  Enum['daemon', 'timer', 'once'] $mode = 'daemon',
  Optional[Variant[Sensitive[String], Sensitive[Binary]]] $secret = undef,
  Pattern[/^\//] $secret_file = '/etc/tfo-fleet/fleet.secret',
  Boolean $manage_package = true,
) {
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
      before    => File['/etc/tfo-fleet/agent.toml'],
    }
  }

  # A broken configuration never gets there.
  file { '/etc/tfo-fleet/agent.toml':
    ensure       => file,
    owner        => 'root',
    group        => 'root',
    mode         => '0644',
    content      => $config,
    validate_cmd => '/usr/bin/tfo-agent check --config-only --config %',
    notify       => Exec['tfo-agent reload'],
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
      require => [File['/etc/tfo-fleet/agent.toml'], Service['tfo-agent.service']],
    }
  }

  service { 'tfo-agent.service':
    ensure  => $mode == 'daemon',
    enable  => $mode == 'daemon',
    require => File['/etc/tfo-fleet/agent.toml'],
  }

  service { 'tfo-agent-once.timer':
    ensure  => $mode == 'timer',
    enable  => $mode == 'timer',
    require => File['/etc/tfo-fleet/agent.toml'],
  }
}
