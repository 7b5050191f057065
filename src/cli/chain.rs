//! Which Bitcoin network an address is for.

use bitcoin::Network;
use clap::ValueEnum;

/// A network, as arguments name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BitcoinNetwork {
    /// The main network.
    #[default]
    Bitcoin,
    /// The test network.
    Testnet,
    /// The signed test network.
    Signet,
    /// A network of one's own.
    Regtest,
}

impl From<BitcoinNetwork> for Network {
    fn from(network: BitcoinNetwork) -> Self {
        match network {
            BitcoinNetwork::Bitcoin => Self::Bitcoin,
            BitcoinNetwork::Testnet => Self::Testnet,
            BitcoinNetwork::Signet => Self::Signet,
            BitcoinNetwork::Regtest => Self::Regtest,
        }
    }
}
