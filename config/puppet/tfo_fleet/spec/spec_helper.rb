# frozen_string_literal: true

# The module is found by the name of its directory; it depends on no other.
require 'rspec-puppet'

RSpec.configure do |config|
  config.module_path = File.expand_path('../..', __dir__)
  config.hiera_config = File.join(__dir__, 'hiera.yaml')
  config.strict_variables = true
  config.trusted_node_data = true
end
