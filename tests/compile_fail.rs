//! What must not compile: a second use of a nonce pair (I6), a secret that is printed or encoded (I10), a share that leaves
//! without the proof that its record is durable (I1), an address before all nodes have confirmed.

#[test]
fn what_breaks_an_invariant_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
