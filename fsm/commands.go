package fsm

// commands is the whole vocabulary of the log. A command that is not here can
// not be proposed. Entries are never removed or renamed while a log or
// snapshot of a supported version may hold them.
var commands = []commandEntry{
	entry[InitCluster](),

	entry[RegisterNode](),
	entry[DrainNode](),
	entry[NodeDown](),
	entry[RemoveNode](),

	entry[PutTemplate](),
	entry[DeleteTemplate](),

	entry[PutGroup](),
	entry[DeleteGroup](),
	entry[RemoveGroup](),
	entry[SetDesired](),
	entry[WakeGroup](),

	entry[LaunchInstances](),
	entry[StopInstances](),
	entry[ReportInstances](),
	entry[ForgetInstances](),

	entry[AssignSessions](),
	entry[TouchSessions](),
	entry[RehomeSessions](),
	entry[ExpireSessions](),
	entry[DeleteSessions](),
	entry[PutSessionData](),
	entry[DeleteSessionData](),
	entry[ExpireSessionData](),
	entry[RotateSessionKeys](),

	entry[PutPolicy](),
	entry[DeletePolicy](),
	entry[RecordDecision](),
}
