# @summary A value from a file of hiera-eyaml, Sensitive before Hiera has it.
#
# As `tfo_fleet::sensitive_yaml_data`, for a file whose values are encrypted. Hiera's own `eyaml_lookup_key` decrypts them
# to plain strings, which `--debug` and `puppet lookup --explain` print.
#
# @example A level of hiera.yaml
#   - name: Secrets
#     path: secrets.eyaml
#     lookup_key: tfo_fleet::sensitive_eyaml_lookup_key
#     options:
#       pkcs7_private_key: /etc/puppetlabs/puppet/eyaml/private_key.pkcs7.pem
#       pkcs7_public_key: /etc/puppetlabs/puppet/eyaml/public_key.pkcs7.pem
#
# @param key
#   What Hiera looks for.
# @param options
#   What Hiera hands over: the path of the file, and the options of the level.
# @param context
#   What Hiera hands over besides.
#
# @return [Any]
#   The value.
function tfo_fleet::sensitive_eyaml_lookup_key(String[1] $key, Hash[String[1], Any] $options, Puppet::LookupContext $context) {
  $value = eyaml_lookup_key($key, $options, $context)
  $key ? { 'lookup_options' => $value, default => Sensitive($value) }
}
