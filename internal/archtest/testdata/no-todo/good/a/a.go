package a

// TODOs are not allowed, context.TODO is code, and hacking is fine.
const todo = "TODO"
