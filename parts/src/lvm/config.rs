//! The text that LVM2 keeps its metadata in: sections, numbers, strings and lists
//! (`lvm.conf(5)`; LVM2's `libdm/libdm-config.c`).

type Result<T> = std::result::Result<T, String>;

/// Sections inside sections; LVM2 itself goes four deep.
const MOST_DEPTH: usize = 16;
/// Names and values in all: some thousand logical volumes have fewer.
const MOST_NODES: usize = 1 << 20;

/// What stands between two braces, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Section(Vec<(String, Node)>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Section(Section),
    Value(Value),
}

/// What a name is set to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    /// A number below zero or with a fraction, which nothing here asks for.
    Other,
}

impl Section {
    /// Takes a text apart; what is wrong otherwise.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let mut parser = Parser { text, at: 0, nodes: 0 };
        let section = parser.section(0)?;
        parser.skip();
        if parser.peek().is_some() {
            return Err(parser.error("a brace too many"));
        }
        Ok(section)
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Self> {
        self.sections().find(|(found, _)| *found == name).map(|(_, section)| section)
    }

    pub(crate) fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().filter_map(|(name, node)| match node {
            Node::Section(section) => Some((name.as_str(), section)),
            Node::Value(_) => None,
        })
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A list; a single value counts as a list of one, as LVM2 takes it.
    pub(crate) fn list(&self, name: &str) -> &[Value] {
        match self.value(name) {
            Some(Value::List(values)) => values,
            Some(value) => std::slice::from_ref(value),
            None => &[],
        }
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.iter().find_map(|(found, node)| match node {
            Node::Value(value) if found == name => Some(value),
            _ => None,
        })
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    /// Names and values so far.
    nodes: usize,
}

impl Parser<'_> {
    /// All up to the end or a closing brace, which is left.
    fn section(&mut self, depth: usize) -> Result<Section> {
        if depth > MOST_DEPTH {
            return Err(self.error("too many sections inside each other"));
        }
        let mut section = Section::default();
        loop {
            self.skip();
            let name = match self.peek() {
                None | Some(b'}') => return Ok(section),
                // A name may be quoted.
                Some(b'"') => self.string()?,
                Some(_) => self.word()?,
            };
            self.skip();
            let node = match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    let inner = self.section(depth + 1)?;
                    self.expect(b'}')?;
                    Node::Section(inner)
                }
                Some(b'=') => {
                    self.at += 1;
                    Node::Value(self.value()?)
                }
                _ => return Err(self.error("neither a value nor a section after a name")),
            };
            self.count()?;
            section.0.push((name, node));
        }
    }

    fn value(&mut self) -> Result<Value> {
        self.skip();
        if self.peek() != Some(b'[') {
            return self.scalar();
        }
        self.at += 1;
        let mut values = Vec::new();
        loop {
            self.skip();
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(values));
                }
                Some(b',') => self.at += 1,
                _ => {
                    self.count()?;
                    values.push(self.scalar()?);
                }
            }
        }
    }

    fn scalar(&mut self) -> Result<Value> {
        if self.peek() == Some(b'"') {
            return Ok(Value::Text(self.string()?));
        }
        let word = self.word()?;
        if let Ok(number) = word.parse() {
            Ok(Value::Number(number))
        } else if word.parse::<f64>().is_ok() {
            Ok(Value::Other)
        } else {
            Ok(Value::Text(word))
        }
    }

    fn string(&mut self) -> Result<String> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let byte = self.peek().ok_or_else(|| self.error("a string does not end"))?;
            self.at += 1;
            match byte {
                b'"' => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                b'\\' => {
                    bytes.extend(self.peek());
                    self.at += 1;
                }
                _ => bytes.push(byte),
            }
        }
    }

    fn word(&mut self) -> Result<String> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.+-/:@".contains(byte);
        let word: Vec<u8> = rest.iter().copied().take_while(is_word).collect();
        if word.is_empty() {
            return Err(self.error("neither a name nor a value"));
        }
        self.at += word.len();
        Ok(String::from_utf8_lossy(&word).into_owned())
    }

    fn count(&mut self) -> Result<()> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            return Err(self.error("it holds too much"));
        }
        Ok(())
    }

    /// Goes past spaces and comments.
    fn skip(&mut self) {
        while let Some(byte) = self.peek() {
            if byte == b'#' {
                while self.peek().is_some_and(|byte| byte != b'\n') {
                    self.at += 1;
                }
            } else if byte.is_ascii_whitespace() {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(self.error("a section does not end"));
        }
        self.at += 1;
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn error(&self, message: &str) -> String {
        let line = 1 + self.text.iter().take(self.at).filter(|byte| **byte == b'\n').count();
        format!("{message} (line {line} of its text)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_text_apart() {
        let text = br#"# comment { "
            vg { id = "a\"b\\c" # more
              n=12 neg = -1 f = 1.5 empty = [] one = "x" list = [ "pv0", 2, # why
              "pv1", 0 ] s { t { } } }
            version = 1"#;
        let top = Section::parse(text).unwrap();
        assert_eq!(top.number("version"), Some(1));
        let vg = top.section("vg").unwrap();
        assert_eq!(vg.text("id"), Some("a\"b\\c"));
        assert_eq!((vg.number("n"), vg.number("neg"), vg.number("f")), (Some(12), None, None));
        assert_eq!(vg.list("empty"), []);
        assert_eq!(vg.list("one"), [Value::Text("x".into())]);
        assert_eq!(vg.list("list").len(), 4);
        assert_eq!(vg.sections().count(), 1);
        assert!(vg.section("s").unwrap().section("t").is_some());
    }

    #[test]
    fn refuses_what_does_not_end() {
        for text in ["a {", "a = \"x", "a = [1", "}", "a", "a = ", "a = \"\\", "= 1", "a ! 1"] {
            assert!(Section::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Section::parse("a {".repeat(100_000).as_bytes()).is_err());
    }
}
