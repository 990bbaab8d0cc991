//! etcd beside it.
pub(crate) fn measure(_size: usize, _rounds: usize) {
    println!("  etcd                            not measured");
}
pub(crate) fn run_clients() {}
