package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// errorBody is the JSON of an error.
type errorBody struct {
	Code     string `json:"code"`
	Message  string `json:"message"`
	Happened string `json:"happened"`
	// Leader is the client address of the group's leader.
	Leader string `json:"leader,omitempty"`
	Index  uint64 `json:"index,omitempty"`
}

// asError finds the code of what failed. A body that was too long or too slow
// is the client's doing, not ours.
func asError(err error) *framework.Error {
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return framework.ErrTooLarge.Because("the body is over the limit of %d bytes", tooLong.Limit)
	}
	return framework.AsError(err)
}

func happenedOf(e *framework.Error) pb.Happened { return pb.Happened(e.Happened) }

// bodyOf makes the JSON form.
func bodyOf(e *framework.Error) errorBody {
	return errorBody{
		Code: string(e.Code), Message: e.Error(), Happened: happenedOf(e).Word(),
		Leader: e.LeaderAddr, Index: e.Index,
	}
}

// writeError answers a plain HTTP request.
func writeError(w http.ResponseWriter, err error) {
	e := asError(err)
	row := pb.RowOf(string(e.Code))
	h := w.Header()
	h.Del("Content-Length")
	if row.Retry == pb.Later || e.Code == pb.CodeNoQuorum || e.Code == pb.CodeMachineDown {
		h.Set("Retry-After", "1")
	}
	if e.Code == pb.CodeUnauthenticated {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if e.Code == pb.CodeResultGone {
		h.Set(headerIndex, strconv.FormatUint(e.Index, 10))
	}
	writeJSON(w, row.HTTP, bodyOf(e))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		// Nothing we answer with can fail to marshal but by a mistake of ours.
		status = http.StatusInternalServerError
		b = []byte(`{"code":"internal","message":"the answer could not be written as JSON","happened":"maybe"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// toConnect makes the gRPC form. What connect itself has found wrong, such as a
// message that is too long, stays as it is.
func toConnect(err error) error {
	var own *connect.Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	e := asError(err)
	c := connect.NewError(pb.RowOf(string(e.Code)).GRPC, errors.New(e.Error()))
	if d, err := connect.NewErrorDetail(errorPB(e)); err == nil {
		c.AddDetail(d)
	}
	return c
}

func errorPB(e *framework.Error) *pb.Error {
	return &pb.Error{
		Code: string(e.Code), Message: e.Error(), Happened: happenedOf(e),
		Leader: string(e.Leader), LeaderAddr: e.LeaderAddr, Index: e.Index,
	}
}

func quote(s string) string {
	if len(s) > 100 {
		s = s[:100]
	}
	return strconv.Quote(s)
}
