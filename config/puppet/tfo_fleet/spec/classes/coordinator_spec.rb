# frozen_string_literal: true

require 'spec_helper'

describe 'tfo_fleet::coordinator' do
  let(:node) { 'tfo1.example.org' }
  let(:init) { ['/usr/bin/tfo-coordinator', 'init', '--name', 'tfo1.example.org'] }

  context 'without parameters' do
    it { is_expected.to compile.with_all_deps }

    it { is_expected.to contain_package('tfo-coordinator').that_comes_before('Exec[tfo-coordinator init]') }

    it { is_expected.to contain_package('tfoctl').with(provider: nil).that_comes_before('Exec[tfo-coordinator init]') }

    it 'takes the certname for the name, and leaves the rest to init' do
      is_expected.to contain_exec('tfo-coordinator init').with_command(init)
    end

    it 'does not make what is there' do
      is_expected.to contain_exec('tfo-coordinator init').with_unless('/usr/bin/grep -q "^ca_key" /etc/tfo-fleet/coordinator.toml')
    end

    it { is_expected.to contain_service('tfo-coordinator.service').with(ensure: 'running', enable: true).that_requires('Exec[tfo-coordinator init]') }
  end

  context 'with everything said' do
    let(:params) do
      {
        coordinator_name: 'tfo2.example.org', addresses: ['192.0.2.1', '2001:db8::1'], pool: 'edge', nodes: ['cp*.example.org', 'dns1.example.org'],
        package_files: { 'tfo-coordinator' => '/root/tfo-coordinator.deb', 'tfoctl' => '/root/tfoctl.deb' }
      }
    end

    it 'hands it to init as words of their own, so that no shell reads them' do
      is_expected.to contain_exec('tfo-coordinator init').with_command(
        init[0, 3] + ['tfo2.example.org', '--address', '192.0.2.1', '--address', '2001:db8::1', '--pool', 'edge',
                      '--nodes', 'cp*.example.org', '--nodes', 'dns1.example.org']
      )
    end

    it { is_expected.to contain_package('tfoctl').with(provider: 'dpkg', source: '/root/tfoctl.deb') }

    it { is_expected.to contain_package('tfo-coordinator').with(provider: 'dpkg', source: '/root/tfo-coordinator.deb') }
  end

  context 'when the packages are there' do
    let(:params) { { manage_package: false } }

    it { is_expected.not_to contain_package('tfoctl') }

    it { is_expected.not_to contain_package('tfo-coordinator') }
  end

  [
    [{ coordinator_name: 'TFO1' }, %r{parameter 'coordinator_name'}],
    [{ addresses: ['tfo1.example.org'] }, %r{parameter 'addresses'}],
    [{ pool: '-edge' }, %r{parameter 'pool'}],
    [{ nodes: ['cp?.example.org'] }, %r{parameter 'nodes'}],
    [{ package_files: { 'tfoctl' => '/root/tfoctl.deb' } }, %r{parameter 'package_files'}],
  ].each do |given, message|
    context "with #{given}" do
      let(:params) { given }

      it { is_expected.to compile.and_raise_error(message) }
    end
  end

  context 'when the host is a node, too' do
    let(:pre_condition) { "class { 'tfo_fleet::agent': token_file => '/root/token' }" }

    it { is_expected.to compile.with_all_deps }
  end
end
