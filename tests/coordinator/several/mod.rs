//! Several coordinators on one etcd, without kernels: how agents spread over them, and what operators see of them.

mod operators;
mod spread;

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;
use tfo_testbed::config::CoordinatorToml;
use tfo_testbed::coordinator::{Client, Coordinator, Node, OPERATOR, VIEWER, World, runtime};
use tfo_testbed::etcd::{Etcd, Plan};
use tfo_testbed::pki::{Ca, client_config};
use tfo_testbed::{PATIENCE, free_port, poll_some, poll_until};

/// One of them.
struct One {
    process: Coordinator,
    api: SocketAddr,
    observe: SocketAddr,
}

/// Coordinators `tfo0`, `tfo1` and so on, each in a directory of its own; the pool is `edge`.
pub(crate) struct Several {
    all: Vec<One>,
    /// Certificates and the key-encryption key.
    world: World,
    runtime: tokio::runtime::Runtime,
    // Dropped last.
    pub(crate) etcd: Etcd,
}

impl Several {
    /// Configured, not started; `pool` are lines of `[pools.edge]`, and authorities of clients besides the world's own.
    pub(crate) fn new(count: usize, pool: &str, authorities: &[&Ca]) -> Self {
        let (world, etcd) = (World::new(pool), Etcd::new(&Plan::of(1)));
        let mut cas = world.ca.pem.clone();
        authorities.iter().for_each(|ca| cas.push_str(&ca.pem));
        world.put("ca.crt", cas.as_bytes(), 0o644);
        let one = |number: usize| {
            let dir = world.path(&format!("c{number}"));
            fs::create_dir(&dir).unwrap();
            One { process: Coordinator::new(&dir), api: free_port(), observe: free_port() }
        };
        let all = (0..count).map(one).collect();
        let several = Self { all, world, runtime: runtime(), etcd };
        (0..count).for_each(|number| several.configure(number, pool));
        several
    }

    /// All of them serve.
    pub(crate) fn started(count: usize, pool: &str, authorities: &[&Ca]) -> Self {
        let mut several = Self::new(count, pool, authorities);
        (0..count).for_each(|number| several.all[number].process.spawn());
        (0..count).for_each(|number| several.serves(number));
        several
    }

    /// Writes the configuration of one.
    pub(crate) fn configure(&self, number: usize, pool: &str) {
        let (one, world, etcd) = (&self.all[number], &self.world, &self.etcd);
        let lock = world.path(&format!("c{number}/name.lock"));
        let store = format!(
            "kind = \"etcd\"\nurls = {:?}\nca = {:?}\nname = \"tfo{number}\"\nname_lock = {lock:?}\n",
            etcd.urls(),
            etcd.path("ca.crt"),
        );
        let of = CoordinatorToml::of(world.dir.path(), one.api, one.observe);
        let config = CoordinatorToml { operators: &[OPERATOR], viewers: &[VIEWER], store, ..of };
        let text = config.with_pools(&format!("[pools.edge]\nnodes = [\"*.cache.example.org\"]\n{pool}"));
        world.put(&format!("c{number}/coordinator.toml"), text.as_bytes(), 0o644);
    }

    pub(crate) fn start(&mut self, number: usize) {
        self.all[number].process.spawn();
        self.serves(number);
    }

    /// Waits until it is ready.
    #[track_caller]
    fn serves(&mut self, number: usize) {
        let is_ready = poll_until(PATIENCE, || {
            self.all[number].process.must_run();
            self.observed(number, "/readyz").is_some_and(|(status, _)| status == 200)
        });
        assert!(is_ready, "not ready: {}", self.all[number].process.log());
    }

    /// GET from its plain listener; none if there is none.
    pub(crate) fn observed(&self, number: usize, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{}{path}", self.all[number].observe);
        self.runtime.block_on(async {
            let tls = client_config(&self.world.ca.pem, None);
            let client = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
            let response = client.get(url).send().await.ok()?;
            Some((response.status().as_u16(), response.text().await.ok()?))
        })
    }

    pub(crate) fn process(&mut self, number: usize) -> &mut Coordinator {
        &mut self.all[number].process
    }

    pub(crate) fn api(&self, number: usize) -> SocketAddr {
        self.all[number].api
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// An operator's client of one.
    pub(crate) fn operator(&self, number: usize) -> Client {
        let identity = self.world.ca.both(&[OPERATOR]);
        Client::new(self.runtime.handle(), self.api(number), client_config(&self.world.ca.pem, Some(&identity)))
    }

    /// A node that asks this one.
    pub(crate) fn node(&self, number: usize, name: &str) -> Node {
        let identity = self.world.ca.both(&[name]);
        let tls = client_config(&self.world.ca.pem, Some(&identity));
        Node::new(Client::new(self.runtime.handle(), self.api(number), tls), name)
    }

    /// Waits until one shows what is wanted at a path.
    #[track_caller]
    pub(crate) fn until(&self, number: usize, path: &str, wanted: &str, is: impl Fn(&Value) -> bool) -> Value {
        let (operator, mut last) = (self.operator(number), Value::Null);
        let found = poll_some(PATIENCE, || {
            last = operator.get(path).1;
            is(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("never {wanted}: {last:#}\n{}", self.all[number].process.log()))
    }
}
