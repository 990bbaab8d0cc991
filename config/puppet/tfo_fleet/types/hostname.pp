# @summary A DNS name in lower case, as certificates have it.
type Tfo_fleet::Hostname = Pattern[/\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\z/]
