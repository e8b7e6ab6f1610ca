//! From the authored to the resolved form. Every mistake is reported, not only the first.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use url::Url;

use super::{
    Components,
    authored::{self, Named},
    places::{Places, below, did_you_mean},
    problem::Code,
    resolved::{Config, Host, LISTEN, ServerUrl, Store, StoreUrl},
};
use crate::tenant::{Name, TenantId};

/// The store that is there when the file names none.
const DEFAULT_STORE: &str = "main";
/// Its database, relative to the file.
const DEFAULT_URL: &str = "sqlite://tendon.db";

/// What every part needs in order to resolve its keys.
pub(super) struct Resolver<'p, 'a> {
    pub(super) places: &'p mut Places<'a>,
    pub(super) folder: &'p Path,
    pub(super) components: Components,
}

/// Resolves the whole file.
pub(super) fn resolve(root: &authored::Root, file: &Path, resolver: &mut Resolver<'_, '_>) -> Option<Config> {
    let listen = resolver.listen(root.host.listen.as_deref());
    let code_cache = root.host.code_cache.as_ref().map(|folder| resolver.folder.join(folder));
    let stores = resolver.stores(&root.store);
    let streams = resolver.streams(&root.stream, &stores);
    let consumers = resolver.consumers(&root.consumer, &stores, &streams);
    Some(Config { file: file.to_owned(), host: Host { listen, code_cache }, stores: stores?, streams, consumers })
}

impl Resolver<'_, '_> {
    fn listen(&mut self, text: Option<&str>) -> SocketAddr {
        let Some(text) = text else { return LISTEN };
        let path = "host.listen";
        let address = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        match address.as_deref().unwrap_or(text).parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => return address,
            Ok(address) => {
                let message = format!("`listen` is {text:?}: anybody who reaches it could operate this host");
                let suggestion = format!("this version listens on loopback only: \"127.0.0.1:{}\"", address.port());
                self.places.at_value(Code::NotLoopback, path, message, Some(suggestion));
            }
            Err(_) => {
                let message = format!("`listen` is {text:?}, expected an address and a port");
                let suggestion = format!("write it as `listen = \"{LISTEN}\"`");
                self.places.at_value(Code::BadValue, path, message, Some(suggestion));
            }
        }
        LISTEN
    }

    /// The stores; none where a problem would only make more of its kind.
    fn stores(&mut self, authored: &Named<authored::Store>) -> Option<BTreeMap<Name, Store>> {
        let mut stores = BTreeMap::new();
        let mut whole = true;
        for (text, store) in authored {
            let path = below("store", text);
            let name = self.name(&path, text);
            let url = self.required(&path, "url", store.url.as_deref()).and_then(|url| self.url(&path, url));
            match (name, url) {
                (Some(name), Some(url)) => {
                    stores.insert(name, Store { url, durability: store.durability.unwrap_or_default() });
                }
                _ => whole = false,
            }
        }
        if authored.is_empty() {
            let url = self.url("store", DEFAULT_URL)?;
            stores.insert(DEFAULT_STORE.parse().ok()?, Store { url, durability: authored::Durability::default() });
        }
        whole.then_some(stores)
    }

    fn url(&mut self, path: &str, text: &str) -> Option<StoreUrl> {
        let path = format!("{path}.url");
        let suggestion = Some(format!("write it as `url = \"{DEFAULT_URL}\"`"));
        match text.split_once("://") {
            Some(("sqlite", file)) if file.is_empty() || file.contains(['?', '\0']) => {
                let message = format!("`url` is {text:?}, expected the path of a file after sqlite://");
                self.places.at_value(Code::BadValue, &path, message, suggestion);
            }
            Some(("sqlite", file)) => return Some(StoreUrl::Sqlite(self.path(file))),
            Some((scheme @ ("postgres" | "postgresql" | "mysql" | "mariadb"), _)) => match Url::parse(text) {
                Ok(url) if url.has_host() && url.path().len() > 1 => return Some(StoreUrl::Server(ServerUrl(url))),
                _ => {
                    // Not the text itself: it may hold a password.
                    let message = "`url` is not the URL of a database on a server".to_owned();
                    let suggestion = Some(format!("write it as `url = \"{scheme}://user:password@host/database\"`"));
                    self.places.at_value(Code::BadValue, &path, message, suggestion);
                }
            },
            Some((scheme @ "memory", _)) => {
                let message = format!("`url` is {text:?}: this version has no {scheme} store");
                self.places.at_value(Code::Unsupported, &path, message, suggestion);
            }
            other => {
                // What comes after a scheme may be a password.
                let found = other.map_or_else(|| format!("{text:?}"), |(scheme, _)| format!("of scheme {scheme:?}"));
                let message = format!(
                    "`url` is {found}, expected sqlite:// and the path of a file, or postgres:// or mysql:// and a server"
                );
                self.places.at_value(Code::BadValue, &path, message, suggestion);
            }
        }
        None
    }

    /// A name that stands as a key.
    pub(super) fn name(&mut self, path: &str, text: &str) -> Option<Name> {
        let parsed = text.parse::<Name>();
        if let Err(error) = &parsed {
            let suggestion = format!("did you mean `{}`?", tidy_name(text));
            self.places.at_key(Code::BadValue, path, error.to_string(), Some(suggestion));
        }
        parsed.ok()
    }

    /// A name that stands as a value.
    pub(super) fn name_value(&mut self, path: &str, text: &str) -> Option<Name> {
        let parsed = text.parse::<Name>();
        if let Err(error) = &parsed {
            let suggestion = format!("did you mean `{}`?", tidy_name(text));
            self.places.at_value(Code::BadValue, path, error.to_string(), Some(suggestion));
        }
        parsed.ok()
    }

    pub(super) fn tenant(&mut self, path: &str, text: Option<&str>) -> TenantId {
        let name = text.and_then(|text| self.name_value(&format!("{path}.tenant"), text));
        name.map_or_else(TenantId::default, TenantId)
    }

    /// The store that is named, else `inherited`, else the only one. None is reported, unless it is a matter of stores
    /// that are wrong themselves.
    pub(super) fn store(
        &mut self,
        path: &str,
        text: Option<&str>,
        inherited: Option<&Name>,
        stores: &Option<BTreeMap<Name, Store>>,
    ) -> Option<Name> {
        let stores = stores.as_ref()?;
        let names = || stores.keys().map(Name::as_str);
        let Some(text) = text else {
            let main = stores.keys().find(|name| name.as_str() == DEFAULT_STORE);
            let only = stores.keys().next().filter(|_| stores.len() == 1);
            let store = inherited.or(only).or(main).cloned();
            if store.is_none() {
                let message = format!("`store` is missing, and there are {} to choose from", stores.len());
                let suggestion = format!("name one of {}", names().collect::<Vec<_>>().join(", "));
                self.places.at_key(Code::MissingKey, &format!("{path}.store"), message, Some(suggestion));
            }
            return store;
        };
        let found = stores.keys().find(|name| name.as_str() == text).cloned();
        if found.is_none() {
            let message = format!("there is no store `{text}`");
            let suggestion = did_you_mean(text, names()).unwrap_or_else(|| format!("add [store.{text}] with its url"));
            self.places.at_value(Code::UnknownStore, &format!("{path}.store"), message, Some(suggestion));
        }
        found
    }

    /// The value of a key that must be there.
    pub(super) fn required<'t>(&mut self, path: &str, key: &str, value: Option<&'t str>) -> Option<&'t str> {
        let path_of_key = format!("{path}.{key}");
        match value {
            Some("") => {
                self.places.at_value(Code::BadValue, &path_of_key, format!("`{key}` is empty"), None);
                None
            }
            // What was there and taken out, because of its type or a variable, has been reported.
            None if self.places.value_at(&path_of_key).is_some() => None,
            None => {
                let message = format!("`{key}` is missing from [{path}]");
                let suggestion = format!("add `{key} = \"…\"`");
                self.places.at_key(Code::MissingKey, &path_of_key, message, Some(suggestion));
                None
            }
            value => value,
        }
    }

    /// A path, relative to the file.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        // Components are taken apart so that `./a.wasm` and `a.wasm` are the same path.
        self.folder.join(text).components().collect()
    }
}

/// The name that was probably meant.
fn tidy_name(text: &str) -> String {
    let tidy = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let tidied: String = text.chars().map(tidy).take(crate::tenant::NAME_BYTES_MAX).collect();
    let tidied = tidied.trim_matches('-');
    if tidied.is_empty() { "a-name".to_owned() } else { tidied.to_owned() }
}
