//! `token create|list|revoke`: how nodes enrol.

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::connect::{ConnectArgs, block_on};
use super::shown::Shown;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver};
use tfo_cli::table::Table;
use tfo_model::ids::TokenId;
use tfo_model::named::Named;
use tfo_model::pattern::NamePattern;
use tfo_model::time::parse_duration;
use tfo_wire::v1::tokens::{LIFE_SECS_MAX, MadeToken, TokenRequest, TokenState, TokenStatus, Tokens, USES_MAX};

/// Arguments of `token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it, this once: any host can enrol with it, so keep it in a file of mode 0400
    Create(CreateArgs),
    /// List the tokens, without their secrets; ended ones for a week
    List(ConnectArgs),
    /// Revoke a token; the nodes that joined with it stay
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Names that may join with it, such as 'edge-*.example.org' (repeatable); default: those of the pool
    #[arg(long, value_name = "PATTERN")]
    nodes: Vec<NamePattern>,
    /// How many nodes may join with it, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(USES_MAX)))]
    uses: u32,
    /// How long it can be used, at most 30d
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = life)]
    expires: u64,
    /// Also for names of nodes that have a certificate: that is revoked when the node joins
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Its id, the part after `tfo1.`
    #[arg(value_name = "ID")]
    id: TokenId,
}

fn life(text: &str) -> Result<u64, String> {
    let secs = parse_duration(text).map_err(|error| error.to_string())?.as_secs();
    if (1..=LIFE_SECS_MAX).contains(&secs) { Ok(secs) } else { Err("a token lives for 1s to 30d".to_owned()) }
}

/// Runs `token`.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn token(arguments: &TokenArgs, format: Format) -> Result<Outcome, Failure> {
    match &arguments.command {
        TokenCommand::Create(own) => {
            let connection = own.connect.open(format)?;
            let made = block_on(async {
                let pool = connection.pool().await?;
                let CreateArgs { nodes, uses, expires, replace, .. } = own;
                let (nodes, uses, life_secs, replace) = (nodes.clone(), *uses, *expires, *replace);
                connection.fleet.create_token(&TokenRequest { pool, nodes, uses, life_secs, replace }).await
            })?;
            deliver(&Shown(made), format)
        }
        TokenCommand::List(connect) => {
            let connection = connect.open(format)?;
            deliver(&Shown(block_on(connection.fleet.tokens())?), format)
        }
        TokenCommand::Revoke(own) => {
            let connection = own.connect.open(format)?;
            deliver(&Shown(block_on(connection.fleet.revoke_token(&own.id))?), format)
        }
    }
}

impl Report for Shown<MadeToken> {
    /// The token alone, so that it can be sent into a file.
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.0.token.expose())
    }
}

impl Report for Shown<Tokens> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["ID", "STATE", "POOL", "NODES", "USED", "UNTIL", "MADE BY", "LAST"]);
        for token in &self.0.tokens {
            let patterns: Vec<String> = token.nodes.iter().map(ToString::to_string).collect();
            table.row([
                token.id.to_string(),
                token.state.to_string(),
                token.pool.to_string(),
                patterns.join(","),
                format!("{}/{}", token.used, token.uses),
                token.expires_at.to_string(),
                token.made_by.to_string(),
                token.last_node.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            ]);
        }
        table.write(out)
    }
}

impl Report for Shown<TokenStatus> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let TokenStatus { id, state, used, uses, .. } = &self.0;
        match state {
            Named::Known(TokenState::Revoked) => {
                writeln!(out, "token {id} is revoked; {used} of {uses} nodes joined with it")
            }
            other => writeln!(out, "token {id} is {other}"),
        }
    }
}
