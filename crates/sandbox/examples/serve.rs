//! Serves a dump (one object a line) and prints a kubeconfig: `cargo run -p sandbox --example serve -- FILE [PORT] [NODES]`.
//! `-` for a file is an empty cluster; NODES is how many nodes it has. Each line on standard input is answered with how many
//! requests there were so far.
#![allow(clippy::print_stdout, reason = "the example talks to the terminal")]

use std::io::BufRead as _;
use std::net::SocketAddr;

use sandbox::{Config, Sandbox, ServeOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next();
    let port: u16 = arguments.next().unwrap_or_default().parse().unwrap_or(0);
    let nodes: usize = arguments.next().unwrap_or_default().parse().unwrap_or(1);
    let sandbox = match file.as_deref() {
        None | Some("-") => Sandbox::new(Config {
            nodes: (1..=nodes).map(|index| format!("node{index}")).collect(),
            ..Config::default()
        }),
        Some(file) => {
            let mut objects = Vec::new();
            for line in std::io::BufReader::new(std::fs::File::open(file)?).lines() {
                objects.push(serde_json::from_str(&line?)?);
            }
            Sandbox::from_objects(Config::default(), objects)?
        }
    };
    let server = sandbox
        .serve(ServeOptions {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        })
        .await?;
    println!("{}", server.kubeconfig());
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            let requests = sandbox.requests();
            println!("{}", requests.reads + requests.writes());
        }
    });
    std::future::pending::<()>().await;
    Ok(())
}
