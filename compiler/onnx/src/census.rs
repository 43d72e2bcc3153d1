//! Counts the messages of a file before they are decoded.
//!
//! An empty message takes two bytes in the file and up to 300 in memory. Law: what decoding allocates is bounded by the
//! size of the file and [`MAX_MESSAGES`], so that a few megabytes cannot become gigabytes. Weights are skipped, not read.

/// Large exports have some 100,000 nodes with a handful of messages each; this many take less than half a gigabyte.
pub(crate) const MAX_MESSAGES: usize = 1 << 21;

/// Messages that contain messages; all others are `Leaf`.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Element,
    Map,
    Function,
    Leaf,
}

impl Kind {
    /// What a field holds, when it is a message that the decoder keeps. The numbers are those of `proto`.
    fn field(self, tag: u64) -> Option<Self> {
        Some(match (self, tag) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Graph, 11..=13) => Self::ValueInfo,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Attribute, 14 | 15) | (Self::ValueInfo, 2) | (Self::Element, 1) | (Self::Map, 2) => Self::Type,
            (Self::Type, 1 | 8) => Self::TensorType,
            (Self::Type, 4 | 9) => Self::Element,
            (Self::Type, 5) => Self::Map,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Model, 8) | (Self::Tensor, 3 | 13) | (Self::Type, 7) | (Self::Shape, 1) | (Self::Function, 9) => {
                Self::Leaf
            }
            _ => return None,
        })
    }
}

/// Whether the file has few enough messages. Malformed files pass: the decoder says what is wrong with them.
pub(crate) fn is_small_enough(model: &[u8]) -> bool {
    let mut left = MAX_MESSAGES;
    count(Kind::Model, model, 0, &mut left);
    left > 0
}

fn count(kind: Kind, mut buf: &[u8], depth: usize, left: &mut usize) {
    // The decoder gives up at this depth.
    if depth > 100 {
        return;
    }
    while *left > 0 {
        let Some(key) = varint(&mut buf) else { return };
        let skip = match key & 7 {
            0 => {
                varint(&mut buf);
                continue;
            }
            1 => 8,
            2 => varint(&mut buf).unwrap_or(u64::MAX),
            5 => 4,
            _ => return,
        };
        let Some((field, rest)) = usize::try_from(skip).ok().and_then(|n| buf.split_at_checked(n)) else {
            return;
        };
        buf = rest;
        if key & 7 == 2
            && let Some(inner) = kind.field(key >> 3)
        {
            *left -= 1;
            count(inner, field, depth + 1, left);
        }
    }
}

fn varint(buf: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for i in 0..10 {
        let (byte, rest) = buf.split_first()?;
        *buf = rest;
        value |= u64::from(byte & 127) << (7 * i);
        if *byte < 128 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn messages_are_counted_at_every_level() {
        let node = crate::proto::NodeProto {
            attribute: vec![crate::proto::AttributeProto::default(); 3],
            ..crate::proto::NodeProto::default()
        };
        let model = crate::proto::ModelProto {
            graph: Some(Box::new(crate::proto::GraphProto {
                node: vec![node; 5],
                ..crate::proto::GraphProto::default()
            })),
            ..crate::proto::ModelProto::default()
        };
        let mut left = 100;
        count(Kind::Model, &model.encode_to_vec(), 0, &mut left);
        assert_eq!(100 - left, 1 + 5 + 5 * 3);
    }

    #[test]
    fn a_flood_of_empty_messages_is_refused() {
        let nodes = [1 << 3 | 2, 0].repeat(MAX_MESSAGES);
        let mut file = vec![7 << 3 | 2];
        prost::encoding::encode_varint(nodes.len() as u64, &mut file);
        file.extend(nodes);
        assert!(!is_small_enough(&file));
        let e = crate::proto::decode(file.into()).expect_err("refused");
        assert!(e.message.contains("messages"), "{}", e.message);
    }

    #[test]
    fn malformed_files_are_left_to_the_decoder() {
        for bad in [&[0xff; 20][..], &[7 << 3 | 2, 200], &[3], &[7 << 3 | 2]] {
            assert!(is_small_enough(bad));
        }
    }
}
