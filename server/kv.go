package server

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
)

// written is the answer to a change of a key.
type written struct {
	// Index is the command's number, Revision the key's.
	Index    uint64 `json:"index"`
	Revision uint64 `json:"revision"`
	// Deleted is there for DELETE: whether there was something to delete.
	Deleted *bool `json:"deleted,omitempty"`
}

func (s *Server) putKey(w http.ResponseWriter, r *request) error {
	cas, hasCAS, err := r.number("cas")
	if err != nil {
		return err
	}
	ttl, err := r.duration("ttl")
	if err != nil {
		return err
	}
	value, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	command := kv.Put(r.key, value, ttl)
	if hasCAS {
		command = kv.CAS(r.key, cas, value, ttl)
	}
	o, rec, err := s.keyCommand(r, command)
	if err != nil {
		return err
	}
	return s.answerWritten(w, rec, written{Index: rec.Token.Number, Revision: o.Revision})
}

func (s *Server) deleteKey(w http.ResponseWriter, r *request) error {
	cas, hasCAS, err := r.number("cas")
	if err != nil {
		return err
	}
	command := kv.Delete(r.key)
	if hasCAS {
		command = kv.DeleteIf(r.key, cas)
	}
	o, rec, err := s.keyCommand(r, command)
	if err != nil {
		return err
	}
	return s.answerWritten(w, rec, written{Index: rec.Token.Number, Revision: o.Revision, Deleted: &o.OK})
}

func (s *Server) answerWritten(w http.ResponseWriter, rec framework.Receipt, a written) error {
	setReceipt(w.Header(), rec)
	writeJSON(w, http.StatusOK, a)
	return nil
}

// keyCommand has a command of the bundled machine executed.
func (s *Server) keyCommand(r *request, command []byte) (kv.Outcome, framework.Receipt, error) {
	if err := kv.CheckCommand(command); err != nil {
		return kv.Outcome{}, framework.Receipt{}, framework.ErrInvalid.Because("%s", err)
	}
	ctx, cancel, err := s.context(r)
	if err != nil {
		return kv.Outcome{}, framework.Receipt{}, err
	}
	defer cancel()
	if err := s.mustBeKV(ctx, r.group); err != nil {
		return kv.Outcome{}, framework.Receipt{}, err
	}
	rec, err := s.proposeHTTP(ctx, r, command)
	if err != nil {
		return kv.Outcome{}, rec, err
	}
	o, decodeErr := kv.DecodeOutcome(rec.Value)
	switch {
	case decodeErr == nil && o.Conflict():
		return o, rec, &framework.Error{Code: pb.CodeConflict, Index: o.Revision,
			Message: "the key is at revision " + strconv.FormatUint(o.Revision, 10) + ", not at the one given; nothing was written"}
	case rec.Err != "":
		return o, rec, refused(rec)
	case decodeErr != nil:
		return o, rec, framework.ErrInternal.Because("the machine's answer is not one of the key-value machine: %s", decodeErr)
	}
	return o, rec, nil
}

// refused is the machine's own word, as an error.
func refused(rec framework.Receipt) error {
	return &framework.Error{Code: pb.CodeRefused, Happened: framework.Yes, Message: rec.Err, Index: rec.Token.Number}
}

func (s *Server) getKey(w http.ResponseWriter, r *request) error {
	q := kv.GetQuery(r.key)
	a, err := s.keyQuery(r, q)
	if err != nil {
		return err
	}
	item, found, err := kv.DecodeItem(a.Value)
	if err != nil {
		return framework.ErrInternal.Because("the machine's answer is not one of the key-value machine: %s", err)
	}
	h := w.Header()
	setAnswer(h, a)
	if !found {
		return &framework.Error{Code: pb.CodeNotFound, Message: "no key " + quote(r.key) + " in group " + quote(r.group)}
	}
	h.Set(headerRevision, strconv.FormatUint(item.Revision, 10))
	if item.Expires != 0 {
		h.Set(headerExpires, time.Unix(0, item.Expires).UTC().Format(time.RFC3339Nano))
	}
	return writeBytes(w, r, item.Value)
}

// listed is one item of a list. A key or value that is not UTF-8 cannot stand
// in JSON as it is, so values are in base64, and so are such keys.
type listed struct {
	Key       string  `json:"key,omitempty"`
	KeyBase64 string  `json:"key_base64,omitempty"`
	Value     *string `json:"value,omitempty"`
	Revision  uint64  `json:"revision"`
	Expires   string  `json:"expires,omitempty"`
}

func (s *Server) listKeys(w http.ResponseWriter, r *request) error {
	limit, _, err := r.number("limit")
	if err != nil {
		return err
	}
	keysOnly, err := r.flag("keys_only")
	if err != nil {
		return err
	}
	l := kv.List{Prefix: r.query.Get("prefix"), After: r.query.Get("after"), Limit: int(min(limit, kv.MaxListItems)), KeysOnly: keysOnly}
	a, err := s.keyQuery(r, kv.ListQuery(l))
	if err != nil {
		return err
	}
	items, more, err := kv.DecodeList(a.Value)
	if err != nil {
		return framework.ErrInternal.Because("the machine's answer is not one of the key-value machine: %s", err)
	}
	out := struct {
		Items []listed `json:"items"`
		More  bool     `json:"more"`
	}{Items: make([]listed, len(items)), More: more}
	for i, it := range items {
		out.Items[i] = listedOf(it, keysOnly)
	}
	setAnswer(w.Header(), a)
	writeJSON(w, http.StatusOK, out)
	return nil
}

func listedOf(it kv.Item, keysOnly bool) listed {
	l := listed{Key: it.Key, Revision: it.Revision}
	if !utf8.ValidString(it.Key) {
		l.Key, l.KeyBase64 = "", base64.StdEncoding.EncodeToString([]byte(it.Key))
	}
	if !keysOnly {
		v := base64.StdEncoding.EncodeToString(it.Value)
		l.Value = &v
	}
	if it.Expires != 0 {
		l.Expires = time.Unix(0, it.Expires).UTC().Format(time.RFC3339Nano)
	}
	return l
}

// keyQuery asks the bundled machine, after the wait that the request may ask
// for.
func (s *Server) keyQuery(r *request, q []byte) (framework.Answer, error) {
	if err := kv.CheckQuery(q); err != nil {
		return framework.Answer{}, framework.ErrInvalid.Because("%s", err)
	}
	if err := s.await(r); err != nil {
		return framework.Answer{}, err
	}
	ctx, cancel, err := s.context(r)
	if err != nil {
		return framework.Answer{}, err
	}
	defer cancel()
	if err := s.mustBeKV(ctx, r.group); err != nil {
		return framework.Answer{}, err
	}
	return s.queryHTTP(ctx, r, q)
}

// await is a blocking query: with ?index=N it returns once the node has applied
// a command numbered above N, or when ?wait is over.
func (s *Server) await(r *request) error {
	index, ok, err := r.number("index")
	if err != nil {
		return err
	}
	wait, err := r.duration("wait")
	if err != nil {
		return err
	}
	if !ok {
		if wait != 0 {
			return framework.ErrInvalid.Because("?wait needs ?index, the number to wait beyond")
		}
		return nil
	}
	if wait == 0 {
		wait = 30 * time.Second
	}
	ctx, cancel := s.waiting(r.Context(), wait)
	defer cancel()
	_, err = s.svc.WaitIndex(ctx, r.group, index)
	return err
}

// machineKinds remembers which groups run the bundled machine. A command of it
// must not reach a machine that would read the bytes as something else.
type machineKinds struct {
	mu    sync.Mutex
	names map[string]machineName // by group; bounded
}

type machineName struct {
	name  string
	until time.Time
}

const (
	kindsMax = 1024
	kindsFor = 5 * time.Second
)

func (s *Server) mustBeKV(ctx context.Context, group string) error {
	name, err := s.machineName(ctx, group)
	if err != nil {
		return err
	}
	if name != "" && name != "kv" {
		return framework.ErrInvalid.Because("group %s runs the machine %s, not the key-value machine: use propose and query", quote(group), quote(name))
	}
	return nil
}

// machineName is "" when no replica's machine has said yet what it is.
func (s *Server) machineName(ctx context.Context, group string) (string, error) {
	k := &s.kinds
	k.mu.Lock()
	known, ok := k.names[group]
	k.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.name, nil
	}
	name := ""
	if st, err := s.svc.LocalStatus(group); err == nil {
		name = st.Machine.Name
	}
	if name == "" {
		st, err := s.svc.GroupStatus(ctx, group)
		if err != nil {
			return "", err
		}
		for _, r := range st.Replicas {
			if r.Machine.Name != "" {
				name = r.Machine.Name
			}
		}
	}
	if name != "" {
		k.mu.Lock()
		if k.names == nil || len(k.names) >= kindsMax {
			k.names = map[string]machineName{}
		}
		k.names[group] = machineName{name, time.Now().Add(kindsFor)}
		k.mu.Unlock()
	}
	return name, nil
}
