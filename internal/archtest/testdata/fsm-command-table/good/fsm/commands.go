package fsm

var commands = []any{
	entry[PutThing](),
	entry[DropThing](),
}

func entry[T any]() any { return nil }
