# frozen_string_literal: true

require 'spec_helper'

# What each type takes, and what it refuses.
{
  'Mode' => [%w[daemon timer once], ['cron', '', nil]],
  'Hostname' => [%w[cp1 cp1.example.org a-b.c 1.2], ['CP1', '-a', 'a-', 'a..b', 'a.', '.a', "a\nb", 'a b', "#{'a' * 64}.b", '']],
  'Nodes' => [%w[*.example.org cp*.cache.example.org dns1], ['', 'cp?', 'A', 'a b', 'a' * 254]],
  'Pool' => [%w[edge edge-1 a.b_c 0], ['', '-edge', '.edge', 'Edge', 'a' * 64, "a\n"]],
  'Address' => [%w[192.0.2.1 2001:db8::1 :: ::ffff:192.0.2.1], ['', 'tfo1', '192.0.2', '192.0.2.1:9443', '2001:DB8::1', "::1\n"]],
  'Place' => [%w[/a /etc/tfo-fleet/fleet.secret], ['', '/', 'a', '/a b', '/a;b', '/a/', "/a\n"]],
  'Deb' => [%w[/root/tfo-agent_0.1.0-1~rc1+b2_amd64.deb], ['', 'a.deb', '/a.rpm', '/a b.deb', '/a.deb;', '/.deb/']],
}.each do |type, (good, bad)|
  describe "Tfo_fleet::#{type}" do
    good.each { |value| it { is_expected.to allow_value(value) } }
    bad.each { |value| it { is_expected.not_to allow_value(value) } }
  end
end
