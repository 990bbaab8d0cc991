# @summary The data of a YAML file for Hiera, each value Sensitive before Hiera has it.
#
# Hiera's own `yaml_data` gives plain strings. A class makes them Sensitive afterwards, but `--debug` and `puppet lookup --explain` have
# printed by then what was found. A level of the hierarchy with this function is for secrets alone: every value of its
# file is Sensitive. `lookup_options` stays as it is.
#
# @example A level of hiera.yaml
#   - name: Secrets
#     path: secrets.yaml
#     data_hash: tfo_fleet::sensitive_yaml_data
#
# @param options
#   What Hiera hands over: the path of the file.
# @param context
#   What Hiera hands over besides.
#
# @return [Hash[RichDataKey, RichData]]
#   The data.
function tfo_fleet::sensitive_yaml_data(Hash[String[1], Any] $options, Puppet::LookupContext $context) >> Hash[RichDataKey, RichData] {
  Hash(yaml_data({ 'path' => $options['path'] }, $context).map |$key, $value| {
    $kept = $key ? { 'lookup_options' => $value, default => Sensitive($value) }
    [$key, $kept]
  })
}
