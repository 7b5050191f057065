//! Nothing to use: the tests are what this package is for.
