package framework

import (
	"errors"
	"fmt"
)

// Happened says whether what was asked for took effect.
type Happened uint8

// The three answers.
const (
	// No: it did not happen; asking again cannot do it twice.
	No Happened = iota
	// Maybe: it may have happened, or may yet. A session makes a retry safe.
	Maybe
	// Yes: it happened; only its answer is missing.
	Yes
)

func (h Happened) String() string { return [...]string{"no", "maybe", "yes"}[h] }

// Code names an error on every wire; docs/errors.md has the table.
type Code string

// Codes.
const (
	CodeNotLeader         Code = "not_leader"
	CodeNoQuorum          Code = "no_quorum"
	CodeBusy              Code = "busy"
	CodeMaybe             Code = "outcome_unknown"
	CodeDeadline          Code = "deadline"
	CodeTooLarge          Code = "too_large"
	CodeInvalid           Code = "invalid"
	CodeNoSuchGroup       Code = "no_such_group"
	CodeGroupExists       Code = "group_exists"
	CodeNoSuchNode        Code = "no_such_node"
	CodeSessionExpired    Code = "session_expired"
	CodeResultGone        Code = "result_gone"
	CodeWindow            Code = "session_window"
	CodeOutOfOrder        Code = "session_order"
	CodeCompacted         Code = "compacted"
	CodeOtherHistory      Code = "other_history"
	CodeUnsupported       Code = "unsupported"
	CodeMachineDown       Code = "machine_down"
	CodeStopped           Code = "stopped"
	CodeMembershipChanged Code = "membership_changed"
	CodeChangeInProgress  Code = "change_in_progress"
	CodeWouldLoseQuorum   Code = "would_lose_quorum"
	CodeNotCaughtUp       Code = "not_caught_up"
	CodeConflict          Code = "conflict"
	CodeDenied            Code = "denied"
	CodeInternal          Code = "internal"
)

// Error is a failure that a caller can act on. errors.Is compares the Code, so
// the sentinels below match any error of theirs.
type Error struct {
	Code     Code
	Happened Happened
	// Message says what was expected and what to do.
	Message string
	// Leader is where to go, for CodeNotLeader, when known.
	Leader NodeID
	// LeaderAddr is the leader's client address, when known.
	LeaderAddr string
	// Index is the number the error speaks of: CodeResultGone (the command's),
	// CodeCompacted (the oldest kept).
	Index uint64
}

func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return e.Message
}

// Is reports whether target is an *Error of the same Code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// The sentinels: match with errors.Is.
var (
	// Did not happen.
	ErrNotLeader         = &Error{Code: CodeNotLeader, Message: "this replica does not lead the group"}
	ErrNoQuorum          = &Error{Code: CodeNoQuorum, Message: "no quorum of the group answered in time"}
	ErrBusy              = &Error{Code: CodeBusy, Message: "the queue is full; retry after a pause"}
	ErrDeadline          = &Error{Code: CodeDeadline, Message: "the deadline passed before the request was taken up"}
	ErrTooLarge          = &Error{Code: CodeTooLarge, Message: "over the size limit"}
	ErrInvalid           = &Error{Code: CodeInvalid, Message: "invalid request"}
	ErrNoSuchGroup       = &Error{Code: CodeNoSuchGroup, Message: "no such group; see 'diarchy group list'"}
	ErrGroupExists       = &Error{Code: CodeGroupExists, Message: "the group exists already"}
	ErrNoSuchNode        = &Error{Code: CodeNoSuchNode, Message: "no such node; see 'diarchy members'"}
	ErrWindow            = &Error{Code: CodeWindow, Message: "more commands in flight than the session's window"}
	ErrOutOfOrder        = &Error{Code: CodeOutOfOrder, Message: "an earlier command of this ordered session is missing"}
	ErrCompacted         = &Error{Code: CodeCompacted, Message: "compacted"}
	ErrOtherHistory      = &Error{Code: CodeOtherHistory, Message: "the group's history has changed since this token was given (restore or recovery); read anew"}
	ErrUnsupported       = &Error{Code: CodeUnsupported, Message: "not supported"}
	ErrMachineDown       = &Error{Code: CodeMachineDown, Message: "this replica's machine is not running"}
	ErrStopped           = &Error{Code: CodeStopped, Message: "this replica has stopped"}
	ErrMembershipChanged = &Error{Code: CodeMembershipChanged, Message: "the membership is not the one this change was based on; look again"}
	ErrChangeInProgress  = &Error{Code: CodeChangeInProgress, Message: "another membership change is under way; retry when it has ended"}
	ErrWouldLoseQuorum   = &Error{Code: CodeWouldLoseQuorum, Message: "the change would leave no live quorum; --force does it all the same"}
	ErrNotCaughtUp       = &Error{Code: CodeNotCaughtUp, Message: "the replica has not caught up yet"}
	ErrConflict          = &Error{Code: CodeConflict, Message: "conflicts with what exists"}
	ErrDenied            = &Error{Code: CodeDenied, Message: "not allowed"}

	// May have happened.
	ErrMaybe          = &Error{Code: CodeMaybe, Happened: Maybe, Message: "the command may have happened: the answer was lost"}
	ErrSessionExpired = &Error{Code: CodeSessionExpired, Happened: Maybe, Message: "the session has expired: whether the command happened earlier is not known"}
	ErrInternal       = &Error{Code: CodeInternal, Happened: Maybe, Message: "internal error"}

	// Happened.
	ErrResultGone = &Error{Code: CodeResultGone, Happened: Yes, Message: "the command happened; its result is no longer kept"}
)

// Because returns a copy of a sentinel with a message that says more.
func (e *Error) Because(format string, args ...any) *Error {
	c := *e
	c.Message = fmt.Sprintf(format, args...)
	return &c
}

// HappenedOf tells what is known of the effect of what failed with err. An
// error of unknown make is Maybe: nothing may be concluded from it.
func HappenedOf(err error) Happened {
	var e *Error
	if errors.As(err, &e) {
		return e.Happened
	}
	return Maybe
}

// AsError makes an *Error of any error, for the wire.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		if e.Error() == err.Error() {
			return e
		}
		return e.Because("%s", err)
	}
	return ErrInternal.Because("%s", err)
}

// ErrNoSnapshot is what Engine.OpenSnapshot answers when there is none.
var ErrNoSnapshot = errors.New("no snapshot")

// CompactedError says that entries below Oldest are no longer kept.
type CompactedError struct{ Oldest Position }

func (e *CompactedError) Error() string {
	return fmt.Sprintf("compacted: the oldest entry kept is at %d", e.Oldest)
}
