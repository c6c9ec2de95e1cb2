//! The binary: wires the crates together. Everything that prints is here.

mod cli;
mod commands;
mod operator;
mod output;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{Cli, Command, LogFormat},
    commands::Verdict,
};

/// Deciding makes and drops millions of small values. The image's program, which is static, keeps musl's: it gives back what a
/// reconciliation needed.
#[cfg(not(target_env = "musl"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let operator = match &cli.command {
        Command::Operator(args) => Some(args.log_format),
        _ => None,
    };
    let serves = matches!(cli.command, Command::Sandbox(_));
    log(cli.global.verbose, operator);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("error: cannot start: {error}"));
            return ExitCode::from(2);
        }
    };
    let verdict = runtime.block_on(async {
        if operator.is_some() || serves {
            // It ends by itself when it is asked to, after the step in hand.
            return commands::run(cli).await;
        }
        tokio::select! {
            verdict = commands::run(cli) => verdict,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!(
                "interrupted\nhint: what was written stays; run the same command again, it goes on from there"
            )),
        }
    });
    // A request that nobody waits for any more must not hold the process up.
    runtime.shutdown_background();
    match verdict {
        Ok(Verdict::Done) => ExitCode::SUCCESS,
        Ok(Verdict::Refused) => ExitCode::from(1),
        Err(error) => {
            output::note(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn log(verbose: u8, operator: Option<LogFormat>) {
    let default = match verbose {
        0 if operator.is_some() => "warn,ks_installer=info,kube_client=off",
        // The client logs what it then returns as an error; an error is told once, at the end.
        0 => "warn,kube_client=off",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("KS_INSTALLER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match operator {
        None => builder.with_writer(anstream::stderr).without_time().init(),
        Some(LogFormat::Json) => builder.json().flatten_event(true).init(),
        Some(LogFormat::Text) => builder.with_target(false).with_ansi(false).init(),
    }
}
