# frozen_string_literal: true

require 'spec_helper'

describe 'tfo_fleet::agent' do
  let(:node) { 'cp1.example.org' }
  let(:config) { "[source]\nkind = \"derive\"\n" }
  let(:token) { 'tfo1.0123456789ab.secret.pin.https://tfo1.example.org:9444' }
  let(:join) { '/usr/bin/tfo-agent join --if-needed --token-file ' }

  shared_examples 'an agent that runs as' do |daemon, timer|
    it { is_expected.to compile.with_all_deps }

    it { is_expected.to contain_service('tfo-agent.service').with(ensure: daemon, enable: daemon) }

    it { is_expected.to contain_service('tfo-agent-once.timer').with(ensure: timer, enable: timer) }

    it { is_expected.to contain_package('tfo-agent').with_ensure('installed').that_comes_before('File[/etc/tfo-fleet]') }

    it { is_expected.to contain_file('/etc/tfo-fleet').with(ensure: 'directory', owner: 'root', mode: '0755') }
  end

  context 'with a token' do
    let(:params) { { token: sensitive(token) } }

    it_behaves_like 'an agent that runs as', true, false

    it 'keeps the token from every eye but root\'s' do
      is_expected.to contain_file('/etc/tfo-fleet/token').with(
        content: sensitive(token), mode: '0400', owner: 'root', show_diff: false, backup: false
      ).that_comes_before('Exec[tfo-agent join]')
    end

    it 'joins once, and asks the program whether it has to' do
      is_expected.to contain_exec('tfo-agent join').with(
        command: "#{join}/etc/tfo-fleet/token",
        unless: "test -x /usr/bin/tfo-agent && #{join}/etc/tfo-fleet/token --dry-run --detailed-exit-codes > /dev/null"
      ).that_comes_before(['Service[tfo-agent.service]', 'Service[tfo-agent-once.timer]'])
    end

    it 'leaves the configuration to join, and the keys to the daemon' do
      is_expected.not_to contain_file('/etc/tfo-fleet/agent.toml')
      is_expected.not_to contain_exec('tfo-agent once')
    end

    it 'has the token in no command' do
      catalogue.resources.select { |resource| resource.type == 'Exec' }.each do |resource|
        expect(resource.to_hash.values.join(' ')).not_to include('secret')
      end
    end
  end

  context 'with a token that something else has put in place, a name and a configuration' do
    let(:params) { { token_file: '/run/secrets/token', node_name: 'edge-1.example.org', config: config } }

    it_behaves_like 'an agent that runs as', true, false

    it { is_expected.not_to contain_file('/run/secrets/token') }

    it { is_expected.to contain_exec('tfo-agent join').with_command("#{join}/run/secrets/token --name edge-1.example.org") }

    it { is_expected.to contain_file('/etc/tfo-fleet/agent.toml').that_comes_before('Exec[tfo-agent join]') }
  end

  context 'with a shared secret, by the timer' do
    let(:params) { { mode: 'timer', config: config, secret: sensitive('s' * 32) } }

    it_behaves_like 'an agent that runs as', false, true

    it 'writes the secret before the configuration that names it, and shows neither it nor a difference' do
      is_expected.to contain_file('/etc/tfo-fleet/fleet.secret').with(
        content: sensitive('s' * 32), mode: '0400', show_diff: false, backup: false
      ).that_comes_before('File[/etc/tfo-fleet/agent.toml]').that_notifies('Exec[tfo-agent reload]')
    end

    it 'checks a configuration before it is one' do
      is_expected.to contain_file('/etc/tfo-fleet/agent.toml').with(
        content: config, validate_cmd: '/usr/bin/tfo-agent check --config-only --config %'
      ).that_notifies('Exec[tfo-agent reload]').that_requires('Package[tfo-agent]')
    end

    it { is_expected.to contain_exec('tfo-agent once').that_requires('Service[tfo-agent.service]') }

    it { is_expected.to contain_exec('tfo-agent reload').with_refreshonly(true) }

    it { is_expected.not_to contain_exec('tfo-agent join') }
  end

  context 'when it runs only with Puppet, and the package is there' do
    let(:params) { { mode: 'once', config: config, manage_package: false } }

    it { is_expected.to compile.with_all_deps }

    it { is_expected.not_to contain_package('tfo-agent') }

    it { is_expected.to contain_exec('tfo-agent once') }
  end

  context 'with a package on the host' do
    let(:params) { { config: config, package_file: '/root/tfo-agent_0.1.0-1_amd64.deb' } }

    it { is_expected.to contain_package('tfo-agent').with(provider: 'dpkg', source: '/root/tfo-agent_0.1.0-1_amd64.deb') }
  end

  [
    [{}, %r{needs token, token_file or config}],
    [{ token: 'plain' }, %r{parameter 'token'}],
    [{ token_file: '/run/a;reboot' }, %r{parameter 'token_file'}],
    [{ token_file: '/run/token', node_name: 'CP1' }, %r{parameter 'node_name'}],
    [{ config: 'x', mode: 'cron' }, %r{parameter 'mode'}],
    [{ config: 'x', secret_file: 'fleet.secret' }, %r{parameter 'secret_file'}],
    [{ config: 'x', package_file: '/root/tfo-agent.rpm' }, %r{parameter 'package_file'}],
  ].each do |given, message|
    context "with #{given}" do
      let(:params) { given }

      it { is_expected.to compile.and_raise_error(message) }
    end
  end

  context 'with a secret that is too short' do
    let(:params) { { config: config, secret: sensitive('s' * 31) } }

    it { is_expected.to compile.and_raise_error(%r{fewer than 32 bytes}) }
  end

  context 'with a token from Hiera, where it is a plain string' do
    let(:hiera_config) { File.expand_path('../fixtures/hiera/plain.yaml', __dir__) }

    it { is_expected.to contain_file('/etc/tfo-fleet/token').with_content(sensitive('plain in Hiera')) }
  end
end
