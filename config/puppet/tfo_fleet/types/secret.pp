# @summary A shared secret, as text or as bytes.
type Tfo_fleet::Secret = Variant[Sensitive[String], Sensitive[Binary]]
