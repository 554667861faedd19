//! Which connections of a target are meant.

use serde::{Deserialize, Serialize};

use crate::filter::{Filter, FilterError};

/// `excluded` and `filter`, in a form that other nodes understand too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Selection {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<Filter>,
    /// Connections by name: they may be those of other nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) excluded: Vec<String>,
}

impl Selection {
    /// An empty filter is none.
    ///
    /// # Errors
    /// Where the filter stops to make sense.
    pub(crate) fn new(filter: Option<&str>, excluded: Vec<String>) -> Result<Self, FilterError> {
        let filter = filter.filter(|text| !text.is_empty()).map(Filter::parse).transpose()?;
        Ok(Self { filter, excluded })
    }

    /// Nothing has to be asked.
    pub(crate) fn is_everybody(&self) -> bool {
        self.filter.is_none() && self.excluded.is_empty()
    }
}
