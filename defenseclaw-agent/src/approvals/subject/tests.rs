//! What each kind of event is about.
