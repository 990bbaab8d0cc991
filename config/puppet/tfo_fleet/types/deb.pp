# @summary The place of a Debian package.
type Tfo_fleet::Deb = Pattern[/\A(\/[\w.+~-]+)+\.deb\z/]
