package server

import (
	"net/http"

	"github.com/diarchy/diarchy/framework"
)

func (s *Server) getGroups(w http.ResponseWriter, r *request) error {
	ctx, cancel, err := s.context(r)
	if err != nil {
		return err
	}
	defer cancel()
	groups, err := s.svc.Groups(ctx)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"groups": orEmpty(groups)})
	return nil
}

func (s *Server) getGroup(w http.ResponseWriter, r *request) error {
	local, err := r.flag("local")
	if err != nil {
		return err
	}
	if local {
		st, err := s.svc.LocalStatus(r.group)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, st)
		return nil
	}
	ctx, cancel, err := s.context(r)
	if err != nil {
		return err
	}
	defer cancel()
	st, err := s.svc.GroupStatus(ctx, r.group)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, st)
	return nil
}

func (s *Server) getNodes(w http.ResponseWriter, r *request) error {
	ctx, cancel, err := s.context(r)
	if err != nil {
		return err
	}
	defer cancel()
	nodes, err := s.svc.Nodes(ctx)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"nodes": orEmpty(nodes)})
	return nil
}

func (s *Server) getChecksum(w http.ResponseWriter, r *request) error {
	ctx, cancel, err := s.context(r)
	if err != nil {
		return err
	}
	defer cancel()
	sum, err := s.svc.Checksum(ctx, r.group)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, sum)
	return nil
}

// nodeStatus is what /v1/status answers.
type nodeStatus struct {
	Node     framework.NodeInfo                 `json:"node"`
	Version  string                             `json:"version"`
	Replicas map[string]framework.ReplicaStatus `json:"replicas"`
	Ready    bool                               `json:"ready"`
	Missing  []string                           `json:"missing"`
}

func (s *Server) getStatus(w http.ResponseWriter, _ *request) error {
	names, replicas := s.localReplicas()
	st := nodeStatus{
		Node: s.svc.Self(), Version: s.cfg.Version,
		Replicas: make(map[string]framework.ReplicaStatus, len(names)), Missing: orEmpty(s.missing()),
	}
	for i, name := range names {
		st.Replicas[name] = replicas[i]
	}
	st.Ready = len(st.Missing) == 0
	writeJSON(w, http.StatusOK, st)
	return nil
}

// orEmpty makes JSON say [] and not null.
func orEmpty[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
