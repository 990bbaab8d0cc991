# @summary The name of a pool.
type Tfo_fleet::Pool = Pattern[/\A[a-z0-9][a-z0-9._-]{0,62}\z/]
