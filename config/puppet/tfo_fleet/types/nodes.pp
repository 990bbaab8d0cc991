# @summary Names of nodes: a DNS name in lower case, with `*` for any characters.
type Tfo_fleet::Nodes = Pattern[/\A[a-z0-9.*-]{1,253}\z/]
