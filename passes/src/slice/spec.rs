//! The wish as the command line writes it.

use std::fmt;
use std::str::FromStr;

/// How much of a network is kept; what is absent stays whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Elements of the residual stream.
    pub hidden: Option<Sizes>,
    /// Query heads of each attention.
    pub heads: Option<Sizes>,
    /// Inner elements of each feed-forward block.
    pub ffn: Option<Sizes>,
    /// Blocks on the residual stream.
    pub layers: Option<Sizes>,
}

/// One number for all, or one for each in the order of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    All(usize),
    Each(Vec<usize>),
}

impl FromStr for Slice {
    type Err = String;

    /// `hidden=192,heads=6,ffn=[512,1024],layers=2`
    fn from_str(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        let mut rest = text.trim();
        loop {
            let (name, after) = rest.split_once('=').ok_or("expected NAME=N or NAME=[N,…]")?;
            let after = after.trim_start();
            let (sizes, left) = match after.strip_prefix('[') {
                Some(list) => {
                    let (list, left) = list.split_once(']').ok_or("the list has no end")?;
                    let each: Result<Vec<usize>, String> = list.split(',').map(number).collect();
                    (Sizes::Each(each?), left)
                }
                None => {
                    let (one, left) = after.split_at(after.find(',').unwrap_or(after.len()));
                    (Sizes::All(number(one)?), left)
                }
            };
            let place = match name.trim() {
                "hidden" => &mut out.hidden,
                "heads" => &mut out.heads,
                "ffn" => &mut out.ffn,
                "layers" => &mut out.layers,
                other => {
                    return Err(format!(
                        "there is no `{other}`: hidden, heads, ffn and layers can be cut"
                    ));
                }
            };
            let one = matches!(sizes, Sizes::All(_));
            if !one && ["hidden", "layers"].contains(&name.trim()) {
                return Err(format!("`{}` is one number", name.trim()));
            }
            if place.replace(sizes).is_some() {
                return Err(format!("`{}` is given twice", name.trim()));
            }
            let left = left.trim();
            match left.strip_prefix(',') {
                Some(next) => rest = next.trim_start(),
                None if left.is_empty() => return Ok(out),
                None => return Err(format!("expected a comma before {left:?}")),
            }
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(0) => Err("nothing would be left of 0".into()),
        Ok(n) => Ok(n),
        Err(_) => Err(format!("{:?} is not a whole number", text.trim())),
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(n) => write!(f, "{n}"),
            Self::Each(list) => {
                let list: Vec<String> = list.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", list.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read() {
        let all = "hidden=192,heads=6,ffn=768,layers=6".parse();
        let want = Slice {
            hidden: Some(Sizes::All(192)),
            heads: Some(Sizes::All(6)),
            ffn: Some(Sizes::All(768)),
            layers: Some(Sizes::All(6)),
        };
        assert_eq!(all, Ok(want));
        let list: Slice = "ffn=[512, 1024], heads=2".parse().expect("reads");
        assert_eq!(list.ffn, Some(Sizes::Each(vec![512, 1024])));
        assert_eq!(list.ffn.map(|s| s.to_string()).as_deref(), Some("[512,1024]"));
        for bad in [
            "",
            "ffn",
            "ffn=",
            "ffn=0",
            "ffn=[1,2",
            "ffn=[1]2",
            "ffn=1,",
            "ffn=1,ffn=2",
            "width=3",
            "hidden=[1]",
            "ffn=99999999999999999999",
        ] {
            assert!(bad.parse::<Slice>().is_err(), "{bad}");
        }
    }
}
