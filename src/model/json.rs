//! Reading JSON as strictly as the description of the API says, where derived readers are lenient.

use std::{collections::HashSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// Any JSON in which no object has two members of one name.
pub struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Unique, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Unique;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Unique, A::Error> {
                while elements.next_element::<Unique>()?.is_some() {}
                Ok(Unique)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique, A::Error> {
                let mut names = HashSet::new();
                while let Some(name) = members.next_key::<String>()? {
                    if names.contains(&name) {
                        return Err(A::Error::custom(format_args!("`{name}` is there twice")));
                    }
                    names.insert(name);
                    members.next_value::<Unique>()?;
                }
                Ok(Unique)
            }
        }

        from.deserialize_any(Any)
    }
}

/// A member that has to be an object: a derived reader would also take an array for its members in their order.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object or null")
        }

        fn visit_unit<E>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Option<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(members)).map(Some)
        }
    }

    from.deserialize_any(Object(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        a: u8,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        #[serde(default, deserialize_with = "object")]
        inner: Option<Inner>,
    }

    #[test]
    fn an_object_is_no_array() {
        let read = |text: &str| serde_json::from_str::<Outer>(text).map(|outer| outer.inner).map_err(|error| error.to_string());
        assert_eq!(read(r#"{"inner":{"a":1}}"#), Ok(Some(Inner { a: 1 })));
        assert_eq!(read(r#"{"inner":null}"#), Ok(None));
        assert_eq!(read("{}"), Ok(None));
        assert!(read(r#"{"inner":[1]}"#).is_err_and(|error| error.contains("expected an object or null")));
    }

    #[test]
    fn names_are_there_once_in_their_object() {
        for (text, good) in [
            (r#"{"a":1,"b":{"a":[{"a":null},{"a":-1.5}]}}"#, true),
            (r#"{"a":1,"b":2,"a":1}"#, false),
            (r#"[{"x":{"a":1,"\u0061":true}}]"#, false),
        ] {
            assert_eq!(serde_json::from_str::<Unique>(text).is_ok(), good, "{text}");
        }
    }
}
