package archtest

// Rule is one thing that the repository's code must hold to.
type Rule struct {
	// Name identifies the rule in reports and names its fixtures.
	Name string
	// Why says what goes wrong without the rule.
	Why string
	// Waivable rules accept an archtest:ok comment with a reason.
	Waivable bool

	check func(c *checker, p *Package)
}

// Limits on the size of things, in lines.
const (
	maxFileLines     = 500
	maxTestFileLines = 800
	maxFuncLines     = 70
	maxTestFuncLines = 150
	maxMainLines     = 80
	maxDesignLines   = 80
	// designFrom is the size from which a package owes a DESIGN.md.
	designFrom = 300
)

// Rules lists every rule.
func Rules() []Rule {
	return []Rule{
		{Name: "imports", check: checkImports,
			Why: "an arrow against the layers makes a cycle of responsibilities"},
		{Name: "external-imports", check: checkExternalImports,
			Why: "a library that only one layer knows can be replaced there"},
		{Name: "fsm-imports", check: checkFSMImports,
			Why: "the replicated state must be computed the same on every node"},
		{Name: "fsm-clock", check: checkFSMClock,
			Why: "time is stamped by the proposer; a clock differs between replicas"},
		{Name: "fsm-goroutine", check: checkFSMGoroutines,
			Why: "the order of goroutines differs between replicas"},
		{Name: "fsm-map-range", check: checkFSMMapRange, Waivable: true,
			Why: "the order of a map differs between replicas"},
		{Name: "fsm-command-table", check: checkCommandTable,
			Why: "the vocabulary of the log is one explicit table"},
		{Name: "fsm-command-script", check: checkCommandScripts,
			Why: "a command that no script uses has no recorded behaviour"},
		{Name: "package-doc", check: checkPackageDoc,
			Why: "a reader starts at the package's purpose"},
		{Name: "exported-doc", check: checkExportedDocs,
			Why: "what others may use has to say what it does"},
		{Name: "design", check: checkDesign,
			Why: "invariants and rejected ideas are lost when only the code is kept"},
		{Name: "file-size", check: checkFileSize,
			Why: "a file has to be read in one go"},
		{Name: "func-size", check: checkFuncSize,
			Why: "a function has to fit the screen and the head"},
		{Name: "main-size", check: checkMainSize,
			Why: "what is in main can not be embedded or tested"},
		{Name: "no-init", check: checkInit,
			Why: "init hides the order of things; tables and constructors show it"},
		{Name: "test-sleep", check: checkTestSleep, Waivable: true,
			Why: "a sleep is either too short and flaky or too long and slow"},
		{Name: "external-tests", check: checkExternalTests,
			Why: "tests from outside read as usage and survive refactoring"},
		{Name: "no-todo", check: checkTodo,
			Why: "work that is left belongs into an issue"},
		{Name: "waiver-reason", check: checkWaivers,
			Why: "a waiver without a reason can not be judged"},
	}
}
