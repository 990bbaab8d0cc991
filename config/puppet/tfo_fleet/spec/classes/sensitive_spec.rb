# frozen_string_literal: true

require 'open3'
require 'spec_helper'
require 'tmpdir'

# Secrets that no Hiera is to show: not even with --debug, which prints what each level of it has found.
describe 'tfo_fleet::agent' do
  # Of no other example: a catalog that is there already is not made again.
  let(:node) { 'cp9.example.org' }
  let(:fixtures) { File.expand_path('../fixtures/hiera', __dir__) }
  let(:token) { contain_file('/etc/tfo-fleet/token').with_content(sensitive('plain in Hiera')) }

  # Everything that is printed while the catalog is made.
  let(:printed) do
    messages = []
    collector = Puppet::Test::LogCollector.new(messages)
    Puppet::Util::Log.newdestination(collector)
    Puppet::Util::Log.level = :debug
    allow(Puppet).to receive(:[]).and_call_original
    allow(Puppet).to receive(:[]).with(:debug).and_return(true)
    catalogue
    messages.map(&:to_s).join("\n")
  ensure
    Puppet::Util::Log.level = :notice
    Puppet::Util::Log.close(collector)
  end

  context 'with the data of Puppet itself' do
    let(:hiera_config) { File.join(fixtures, 'plain.yaml') }

    it 'is shown, which is why the module has functions of its own' do
      expect(printed).to match(%r{Found key: "tfo_fleet::agent::token" value: "plain in Hiera"})
      is_expected.to token
    end
  end

  context 'with a YAML file by the function of the module' do
    let(:hiera_config) { File.join(fixtures, 'sensitive.yaml') }

    it 'is shown nowhere' do
      expect(printed).to match(%r{Found key: "tfo_fleet::agent::token" value: .*redacted})
      expect(printed).not_to include('plain in Hiera')
      is_expected.to token
    end
  end

  context 'with an encrypted file by the function of the module', if: Puppet.features.hiera_eyaml? do
    let(:directory) { Dir.mktmpdir }
    let(:hiera_config) { File.join(directory, 'hiera.yaml') }
    let(:keys) { { 'pkcs7_private_key' => File.join(directory, 'private.pem'), 'pkcs7_public_key' => File.join(directory, 'public.pem') } }

    before do
      options = keys.map { |name, path| "--#{name.tr('_', '-')}=#{path}" }
      eyaml('createkeys', *options)
      encrypted = eyaml('encrypt', '--quiet', '--output=string', "--string=plain in Hiera", *options)
      File.write(File.join(directory, 'token.yaml'), { 'tfo_fleet::agent::token' => encrypted.strip }.to_yaml)
      level = { 'name' => 'A token', 'path' => 'token.yaml', 'options' => keys }
      level['lookup_key'] = 'tfo_fleet::sensitive_eyaml_lookup_key'
      File.write(hiera_config, { 'version' => 5, 'defaults' => { 'datadir' => '.' }, 'hierarchy' => [level] }.to_yaml)
    end

    after { FileUtils.remove_entry(directory) }

    def eyaml(*arguments)
      output, status = Open3.capture2e('eyaml', *arguments)
      expect(status).to be_success, output
      output
    end

    it 'is decrypted, and shown nowhere' do
      expect(printed).to match(%r{Found key: "tfo_fleet::agent::token" value: .*redacted})
      expect(printed).not_to include('plain in Hiera')
      is_expected.to token
    end
  end
end
