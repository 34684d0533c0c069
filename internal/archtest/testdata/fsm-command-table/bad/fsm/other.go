package fsm

var more = []any{entry[OtherThing]()}
