//! RFC 7512 URIs, strictly: what we do not understand is refused by name, never passed over.

use std::path::PathBuf;

/// Longest URI that is read, bytes.
pub const URI_BYTES_MAX: usize = 2_048;

/// Where the PIN is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinSource {
    /// A file, by absolute path.
    File(PathBuf),
    /// A systemd credential, by name: a file below `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// A parsed URI. Absent attributes select nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenUri {
    /// `token`: label of the token.
    pub token: Option<String>,
    /// `serial` number of the token.
    pub serial: Option<String>,
    /// `manufacturer` of the token.
    pub manufacturer: Option<String>,
    /// `model` of the token.
    pub model: Option<String>,
    /// `slot-id`: number of the slot.
    pub slot_id: Option<u64>,
    /// `object`: label of the key.
    pub object: Option<String>,
    /// `id`: `CKA_ID` of the key, 1 to 128 bytes.
    pub id: Option<Vec<u8>>,
    /// `module-path`.
    pub module_path: Option<PathBuf>,
    /// `pin-source`.
    pub pin_source: Option<PinSource>,
}

/// Why a URI is refused. Never repeats a value: it may hold a PIN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Not `pkcs11:`.
    #[error("scheme is not pkcs11")]
    Scheme,
    /// Too long.
    #[error("{0} bytes, at most {URI_BYTES_MAX} are read")]
    Length(usize),
    /// Not `name=value`.
    #[error("attribute {0} is not of the form name=value")]
    Form(usize),
    /// A character that must be percent-encoded, or a broken escape.
    #[error("attribute {name}: byte {at} of the value is not allowed here; percent-encode it")]
    Encoding {
        /// Which attribute.
        name: &'static str,
        /// Offset in the encoded value, bytes.
        at: usize,
    },
    /// A value that is not UTF-8, is empty, too long or holds a control character.
    #[error("attribute {0}: the value is empty, too long, or not plain text")]
    Value(&'static str),
    /// Twice.
    #[error("attribute {0} stands twice")]
    Duplicate(&'static str),
    /// Not one of ours.
    #[error("attribute {0:?} is not known here")]
    Unknown(String),
    /// An attribute of the query in the path, or the other way round.
    #[error("attribute {0} stands on the wrong side of '?'")]
    Place(&'static str),
    /// `type` other than `secret-key`.
    #[error("attribute type: only secret-key is usable")]
    Type,
    /// A PIN in a URI ends up in process lists, shell histories and logs.
    #[error("attribute pin-value is refused: put the pin into a file and give pin-source=file:PATH")]
    PinValue,
    /// `pin-source` of a kind that is not supported.
    #[error("attribute pin-source: only file:ABSOLUTE-PATH and systemd:NAME are usable")]
    PinSource,
}

/// The names that are known, and whether they stand behind `?`.
const KNOWN: [(&str, bool); 12] = [
    ("token", false),
    ("serial", false),
    ("manufacturer", false),
    ("model", false),
    ("slot-id", false),
    ("object", false),
    ("id", false),
    ("type", false),
    ("module-path", true),
    ("pin-source", true),
    ("pin-value", true),
    // A name for an installed module needs a search path: which file is loaded would depend on the surroundings.
    ("module-name", true),
];

impl TokenUri {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`UriError`].
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.len() > URI_BYTES_MAX {
            return Err(UriError::Length(text.len()));
        }
        let rest = match text.split_at_checked(7) {
            // RFC 3986: schemes are case-insensitive.
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("pkcs11:") => rest,
            _ => return Err(UriError::Scheme),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let path_attributes = path.split(';').filter(|_| !path.is_empty()).map(|attribute| (attribute, false));
        let query_attributes = query.into_iter().flat_map(|query| query.split('&')).map(|attribute| (attribute, true));
        let mut uri = Self::default();
        let mut seen = Vec::new();
        for (at, (attribute, in_query)) in path_attributes.chain(query_attributes).enumerate() {
            let (name, encoded) = attribute.split_once('=').ok_or(UriError::Form(at + 1))?;
            let Some((name, belongs_in_query)) = KNOWN.into_iter().find(|(known, _)| *known == name) else {
                return Err(UriError::Unknown(name.chars().take(64).collect()));
            };
            if name == "pin-value" {
                return Err(UriError::PinValue);
            }
            if name == "module-name" {
                return Err(UriError::Unknown("module-name (give module-path)".to_owned()));
            }
            if belongs_in_query != in_query {
                return Err(UriError::Place(name));
            }
            if seen.contains(&name) {
                return Err(UriError::Duplicate(name));
            }
            seen.push(name);
            uri.set(name, decode(name, encoded, in_query)?)?;
        }
        Ok(uri)
    }

    fn set(&mut self, name: &'static str, value: Vec<u8>) -> Result<(), UriError> {
        if name == "id" {
            if value.is_empty() || value.len() > crate::agent::protocol::ATTRIBUTE_BYTES_MAX {
                return Err(UriError::Value("id"));
            }
            self.id = Some(value);
            return Ok(());
        }
        let value = String::from_utf8(value).map_err(|_| UriError::Value(name))?;
        if value.is_empty() || value.chars().any(char::is_control) {
            return Err(UriError::Value(name));
        }
        match name {
            "token" => self.token = Some(bounded(name, value, 32)?),
            "serial" => self.serial = Some(bounded(name, value, 16)?),
            "manufacturer" => self.manufacturer = Some(bounded(name, value, 32)?),
            "model" => self.model = Some(bounded(name, value, 16)?),
            "slot-id" => {
                if !value.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(UriError::Value(name));
                }
                self.slot_id = Some(value.parse().map_err(|_| UriError::Value(name))?);
            }
            "object" => {
                self.object = Some(bounded(name, value, crate::agent::protocol::ATTRIBUTE_BYTES_MAX)?);
            }
            "type" if value == "secret-key" => {}
            "type" => return Err(UriError::Type),
            "module-path" => self.module_path = Some(PathBuf::from(value)),
            "pin-source" => self.pin_source = Some(pin_source(&value)?),
            _ => return Err(UriError::Unknown(name.to_owned())),
        }
        Ok(())
    }
}

fn bounded(name: &'static str, value: String, bytes_max: usize) -> Result<String, UriError> {
    if value.len() > bytes_max { Err(UriError::Value(name)) } else { Ok(value) }
}

fn pin_source(value: &str) -> Result<PinSource, UriError> {
    if let Some(path) = value.strip_prefix("file:") {
        // RFC 8089 allows an empty authority: file:///path.
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.starts_with('/') { Ok(PinSource::File(PathBuf::from(path))) } else { Err(UriError::PinSource) };
    }
    let name = value.strip_prefix("systemd:").ok_or(UriError::PinSource)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.starts_with('.') || name.len() > 255 || !name.bytes().all(plain) {
        return Err(UriError::PinSource);
    }
    Ok(PinSource::Credential(name.to_owned()))
}

/// RFC 7512 section 2.3: unreserved characters and some reserved ones stand for themselves, the rest is `%XX`.
fn decode(name: &'static str, encoded: &str, in_query: bool) -> Result<Vec<u8>, UriError> {
    let mut value = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        let wrong = UriError::Encoding { name, at };
        let plain = byte.is_ascii_alphanumeric()
            || b"-._~:[]@!$'()*+,=".contains(&byte)
            || (byte == b'&' && !in_query)
            || (in_query && b"/?|".contains(&byte));
        if plain {
            value.push(byte);
        } else if byte == b'%' {
            let (Some((_, high)), Some((_, low))) = (bytes.next(), bytes.next()) else {
                return Err(wrong);
            };
            let (Some(high), Some(low)) = (char::from(high).to_digit(16), char::from(low).to_digit(16)) else {
                return Err(wrong);
            };
            value.push(u8::try_from(high * 16 + low).map_err(|_| wrong)?);
        } else {
            return Err(wrong);
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_operators_paste_is_understood() {
        let uri = TokenUri::parse(
            "pkcs11:token=My%20token;serial=0123;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;slot-id=42;object=frost%2Fkeep;\
             id=%00%ffA;type=secret-key?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/frostkeep/pin",
        )
        .unwrap();
        assert_eq!(uri.token.as_deref(), Some("My token"));
        assert_eq!(uri.serial.as_deref(), Some("0123"));
        assert_eq!(uri.manufacturer.as_deref(), Some("SoftHSM project"));
        assert_eq!(uri.model.as_deref(), Some("SoftHSM v2"));
        assert_eq!(uri.slot_id, Some(42));
        assert_eq!(uri.object.as_deref(), Some("frost/keep"));
        assert_eq!(uri.id.as_deref(), Some([0, 255, b'A'].as_slice()));
        assert_eq!(uri.module_path, Some(PathBuf::from("/usr/lib/softhsm/libsofthsm2.so")));
        assert_eq!(uri.pin_source, Some(PinSource::File("/etc/frostkeep/pin".into())));
        let uri = TokenUri::parse("PKCS11:?pin-source=systemd:token-pin").unwrap();
        assert_eq!(uri.pin_source, Some(PinSource::Credential("token-pin".into())));
        let uri = TokenUri::parse("pkcs11:token=a?pin-source=file:///run/pin").unwrap();
        assert_eq!(uri.pin_source, Some(PinSource::File("/run/pin".into())));
        assert_eq!(TokenUri::parse("pkcs11:"), Ok(TokenUri::default()));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let refused: &[(&str, UriError)] = &[
            ("", UriError::Scheme),
            ("pkcs12:token=a", UriError::Scheme),
            ("pkcs11", UriError::Scheme),
            ("pkcs11:token", UriError::Form(1)),
            ("pkcs11:token=a;", UriError::Form(2)),
            ("pkcs11:;token=a", UriError::Form(1)),
            ("pkcs11:token=a?", UriError::Form(2)),
            ("pkcs11:token=a;token=a", UriError::Duplicate("token")),
            ("pkcs11:Token=a", UriError::Unknown("Token".into())),
            ("pkcs11:library-version=3", UriError::Unknown("library-version".into())),
            ("pkcs11:token=a?module-name=softhsm2", UriError::Unknown("module-name (give module-path)".into())),
            ("pkcs11:pin-source=file:/a", UriError::Place("pin-source")),
            ("pkcs11:?token=a", UriError::Place("token")),
            ("pkcs11:token=a b", UriError::Encoding { name: "token", at: 1 }),
            ("pkcs11:token=a%2", UriError::Encoding { name: "token", at: 1 }),
            ("pkcs11:token=%zz", UriError::Encoding { name: "token", at: 0 }),
            ("pkcs11:token=%+1", UriError::Encoding { name: "token", at: 0 }),
            ("pkcs11:token=a/b", UriError::Encoding { name: "token", at: 1 }),
            ("pkcs11:token=", UriError::Value("token")),
            ("pkcs11:token=%00", UriError::Value("token")),
            ("pkcs11:token=%ff", UriError::Value("token")),
            ("pkcs11:token=123456789012345678901234567890123", UriError::Value("token")),
            ("pkcs11:id=", UriError::Value("id")),
            ("pkcs11:slot-id=-1", UriError::Value("slot-id")),
            ("pkcs11:slot-id=+1", UriError::Value("slot-id")),
            ("pkcs11:slot-id=99999999999999999999", UriError::Value("slot-id")),
            ("pkcs11:type=private", UriError::Type),
            ("pkcs11:token=a?pin-value=1234", UriError::PinValue),
            ("pkcs11:pin-value=1234", UriError::PinValue),
            ("pkcs11:?pin-source=1234", UriError::PinSource),
            ("pkcs11:?pin-source=file:pin", UriError::PinSource),
            ("pkcs11:?pin-source=systemd:../pin", UriError::PinSource),
            ("pkcs11:?pin-source=systemd:", UriError::PinSource),
            ("pkcs11:?pin-source=|cat", UriError::PinSource),
        ];
        for (text, error) in refused {
            assert_eq!(TokenUri::parse(text).as_ref(), Err(error), "{text}");
        }
        let long = format!("pkcs11:token={}", "a".repeat(URI_BYTES_MAX));
        assert_eq!(TokenUri::parse(&long), Err(UriError::Length(long.len())));
    }

    #[test]
    fn no_error_repeats_a_value() {
        for text in [
            "pkcs11:?pin-value=geheim",
            "pkcs11:?pin-source=geheim",
            "pkcs11:token=gehe im",
            "pkcs11:id=geheim;id=geheim",
        ] {
            assert!(!format!("{0} {0:?}", TokenUri::parse(text).unwrap_err()).contains("gehe"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*", pasted in "(pkcs11:)?([a-z-]{1,12}=[%0-9a-f/:;&?=]{0,12}[;?&]?){0,6}") {
            let _ = TokenUri::parse(&text);
            let _ = TokenUri::parse(&pasted);
        }

        #[test]
        fn every_label_survives_encoding(label in "[^\\p{Cc}]{1,8}", id in proptest::collection::vec(any::<u8>(), 1..20)) {
            let encode = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let text = format!("pkcs11:token={};id={}", encode(label.as_bytes()), encode(&id));
            let uri = TokenUri::parse(&text).unwrap();
            prop_assert_eq!(uri.token, Some(label));
            prop_assert_eq!(uri.id, Some(id));
        }
    }
}
