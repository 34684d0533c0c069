package cluster

func f() { go func() {}() }
