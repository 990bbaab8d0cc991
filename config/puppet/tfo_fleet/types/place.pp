# @summary The place of a file: an absolute path of characters that mean nothing to a shell.
type Tfo_fleet::Place = Pattern[/\A(\/[\w.-]+)+\z/]
