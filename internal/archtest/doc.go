// Package archtest checks the rules that keep the code base in shape: who may
// import whom, what the replicated state must not do, how large a file or a
// function may grow, and what has to be documented.
//
// The rules are ordinary code over go/ast, run by this package's tests on the
// whole repository. Each rule is proven by a fixture that it must report and by
// one that it must leave alone, because a rule that silently stopped looking is
// worse than none.
//
// A rule marked Waivable accepts a line comment of the form
//
//	//archtest:ok the reason why this line is right
//
// on the line itself or on the line before. The reason is not optional.
package archtest
