# @summary How an agent runs: `daemon` is tfo-agent.service, `timer` is tfo-agent-once.timer, `once` only when Puppet runs.
type Tfo_fleet::Mode = Enum['daemon', 'timer', 'once']
