package clientpb

import (
	"net/http"

	"connectrpc.com/connect"
)

// Retry says what the client library does with an error.
type Retry uint8

// The rules. All but Return go on until the caller's context ends.
const (
	// Return: the caller gets it.
	Return Retry = iota
	// Elsewhere: ask the leader it names, or another node, after a pause.
	Elsewhere
	// Later: ask the same node again after a pause.
	Later
	// InSession: ask again if it is a read, or a command of a session, which
	// cannot be executed twice; otherwise the caller gets it.
	InSession
)

func (r Retry) String() string {
	return [...]string{
		"returns it",
		"asks the leader or another node",
		"asks again after a pause",
		"asks again within a session or for a read, else returns it",
	}[r]
}

// A Row is one line of the error table, the only one there is: server and
// client act by it, and docs/errors.md is checked against it.
type Row struct {
	Code     string
	Happened Happened
	GRPC     connect.Code
	HTTP     int
	// Exit is the exit code of the command line.
	Exit  int
	Retry Retry
	// Meaning is for docs/errors.md.
	Meaning string
}

// Codes. The first group is the framework's, the second belongs to the server's
// door, the third is made by the client library alone.
const (
	CodeNotLeader         = "not_leader"
	CodeNoQuorum          = "no_quorum"
	CodeBusy              = "busy"
	CodeOutcomeUnknown    = "outcome_unknown"
	CodeDeadline          = "deadline"
	CodeTooLarge          = "too_large"
	CodeInvalid           = "invalid"
	CodeNoSuchGroup       = "no_such_group"
	CodeGroupExists       = "group_exists"
	CodeNoSuchNode        = "no_such_node"
	CodeSessionExpired    = "session_expired"
	CodeResultGone        = "result_gone"
	CodeSessionWindow     = "session_window"
	CodeSessionOrder      = "session_order"
	CodeCompacted         = "compacted"
	CodeOtherHistory      = "other_history"
	CodeUnsupported       = "unsupported"
	CodeMachineDown       = "machine_down"
	CodeStopped           = "stopped"
	CodeMembershipChanged = "membership_changed"
	CodeChangeInProgress  = "change_in_progress"
	CodeWouldLoseQuorum   = "would_lose_quorum"
	CodeNotCaughtUp       = "not_caught_up"
	CodeConflict          = "conflict"
	CodeDenied            = "denied"
	CodeInternal          = "internal"

	CodeRefused          = "refused"
	CodeNotFound         = "not_found"
	CodeUnauthenticated  = "unauthenticated"
	CodeCrossOrigin      = "cross_origin"
	CodeMediaType        = "media_type"
	CodeMethodNotAllowed = "method_not_allowed"
	CodeNotReady         = "not_ready"

	CodeUnavailable = "unavailable"
	CodeClosed      = "closed"
)

const (
	no    = Happened_HAPPENED_NO
	maybe = Happened_HAPPENED_MAYBE
	yes   = Happened_HAPPENED_YES
)

// Table is every error that a client can meet, in the order of docs/errors.md.
// gRPC's UNAVAILABLE stands only where nothing happened: generic clients retry it.
var Table = []Row{
	{CodeNotLeader, no, connect.CodeUnavailable, http.StatusMisdirectedRequest, 1, Elsewhere,
		"The replica asked does not lead the group, and the request said not to forward it. `leader` is where to go, when known."},
	{CodeNoQuorum, no, connect.CodeUnavailable, http.StatusServiceUnavailable, 1, Elsewhere,
		"No majority of the group's replicas answered in time."},
	{CodeBusy, no, connect.CodeResourceExhausted, http.StatusTooManyRequests, 1, Later,
		"A queue is full. From a tail: the subscriber was too slow, `index` is the next number it has not had."},
	{CodeOutcomeUnknown, maybe, connect.CodeUnknown, http.StatusGatewayTimeout, 1, InSession,
		"The answer was lost on the way: the command may have happened, or may yet."},
	{CodeDeadline, no, connect.CodeDeadlineExceeded, http.StatusServiceUnavailable, 1, Return,
		"The time was up before the request was taken up."},
	{CodeTooLarge, no, connect.CodeInvalidArgument, http.StatusRequestEntityTooLarge, 1, Return,
		"The command, query or body is over its limit; the message says which."},
	{CodeInvalid, no, connect.CodeInvalidArgument, http.StatusBadRequest, 2, Return,
		"The request is malformed; the message says what was expected."},
	{CodeNoSuchGroup, no, connect.CodeNotFound, http.StatusNotFound, 1, Return,
		"No group of this name is in the catalogue; see `diarchy group list`."},
	{CodeGroupExists, no, connect.CodeAlreadyExists, http.StatusConflict, 1, Return,
		"A group of this name exists already."},
	{CodeNoSuchNode, no, connect.CodeNotFound, http.StatusNotFound, 1, Return,
		"No node of this name or id is in the cluster; see `diarchy members`."},
	{CodeSessionExpired, maybe, connect.CodeFailedPrecondition, http.StatusGone, 1, Return,
		"The session was evicted or closed. What it sent before may have happened. The client's own session is opened anew when nothing of the command had been sent before."},
	{CodeResultGone, yes, connect.CodeFailedPrecondition, http.StatusGone, 1, Return,
		"The command happened as number `index`, by an earlier try; its result is no longer kept."},
	{CodeSessionWindow, no, connect.CodeResourceExhausted, http.StatusTooManyRequests, 1, Later,
		"More commands of the session are in flight than its window holds."},
	{CodeSessionOrder, no, connect.CodeAborted, http.StatusConflict, 1, Later,
		"An earlier command of this ordered session has not arrived."},
	{CodeCompacted, no, connect.CodeOutOfRange, http.StatusGone, 1, Return,
		"What was asked for is older than what is kept; `index` is the oldest."},
	{CodeOtherHistory, no, connect.CodeFailedPrecondition, http.StatusPreconditionFailed, 1, Return,
		"The group was restored or recovered since the token was given: read anew without it."},
	{CodeUnsupported, no, connect.CodeUnimplemented, http.StatusNotImplemented, 1, Return,
		"The engine, machine or node does not offer this."},
	{CodeMachineDown, no, connect.CodeUnavailable, http.StatusServiceUnavailable, 1, Elsewhere,
		"The replica's machine is not running; it is being restarted, or `group status` says why not."},
	{CodeStopped, no, connect.CodeUnavailable, http.StatusServiceUnavailable, 1, Elsewhere,
		"The replica or node has stopped or is stopping."},
	{CodeMembershipChanged, no, connect.CodeAborted, http.StatusConflict, 1, Return,
		"The membership is not the one that the change was based on: look again."},
	{CodeChangeInProgress, no, connect.CodeAborted, http.StatusConflict, 1, Return,
		"Another membership change is under way."},
	{CodeWouldLoseQuorum, no, connect.CodeFailedPrecondition, http.StatusConflict, 1, Return,
		"The change would leave no live quorum; `--force` does it all the same."},
	{CodeNotCaughtUp, no, connect.CodeFailedPrecondition, http.StatusConflict, 1, Return,
		"The replica to promote has not caught up."},
	{CodeConflict, no, connect.CodeFailedPrecondition, http.StatusConflict, 1, Return,
		"What was asked for contradicts what exists; the message names both. From `kv`: the key is not at the revision given."},
	{CodeDenied, no, connect.CodePermissionDenied, http.StatusForbidden, 1, Return,
		"The token given may only read, or this is not allowed here."},
	{CodeInternal, maybe, connect.CodeInternal, http.StatusInternalServerError, 1, InSession,
		"A fault of the server's own; its log says more."},

	{CodeRefused, yes, connect.CodeFailedPrecondition, http.StatusUnprocessableEntity, 1, Return,
		"The machine executed the command and said no: its own words are the message. Nothing failed. Over gRPC it is the field `error` of the answer, not a status."},
	{CodeNotFound, no, connect.CodeNotFound, http.StatusNotFound, 1, Return,
		"The key is not there, or the path or method does not exist."},
	{CodeUnauthenticated, no, connect.CodeUnauthenticated, http.StatusUnauthorized, 1, Return,
		"A token is needed, and none or a wrong one was given."},
	{CodeCrossOrigin, no, connect.CodePermissionDenied, http.StatusForbidden, 1, Return,
		"A page of another site made this request in a browser."},
	{CodeMediaType, no, connect.CodeInvalidArgument, http.StatusUnsupportedMediaType, 1, Return,
		"The content type is one that a foreign page could send, or none that is spoken here."},
	{CodeMethodNotAllowed, no, connect.CodeUnimplemented, http.StatusMethodNotAllowed, 1, Return,
		"The path exists, the method does not; `Allow` names those that do."},
	{CodeNotReady, no, connect.CodeUnavailable, http.StatusServiceUnavailable, 1, Elsewhere,
		"The node is not ready; the message says what is missing."},

	{CodeUnavailable, no, connect.CodeUnavailable, http.StatusServiceUnavailable, 1, Elsewhere,
		"Made by the client library: no connection to the node, so nothing was sent."},
	{CodeClosed, no, connect.CodeCanceled, http.StatusServiceUnavailable, 1, Return,
		"Made by the client library: the client has been closed."},
}

var rows = func() map[string]*Row {
	m := make(map[string]*Row, len(Table))
	for i := range Table {
		m[Table[i].Code] = &Table[i]
	}
	return m
}()

// RowOf finds a code's row. A code that this version does not know, perhaps of
// a newer server, is as CodeInternal: nothing may be concluded from it.
func RowOf(code string) *Row {
	if r, ok := rows[code]; ok {
		return r
	}
	return rows[CodeInternal]
}

// Word is how JSON names h.
func (h Happened) Word() string {
	switch h {
	case no:
		return "no"
	case yes:
		return "yes"
	}
	return "maybe"
}
