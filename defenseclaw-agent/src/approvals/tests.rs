//! Questions and answers, one case after the other.
