# @summary An IP address, of version 4 or 6.
type Tfo_fleet::Address = Pattern[/\A\d{1,3}(\.\d{1,3}){3}\z/, /\A[0-9a-f]*:[0-9a-f:]*(\d{1,3}(\.\d{1,3}){3})?\z/]
