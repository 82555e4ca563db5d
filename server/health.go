package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

func (s *Server) healthz(w http.ResponseWriter, _ *request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := io.WriteString(w, "ok\n")
	return err
}

func (s *Server) readyz(w http.ResponseWriter, _ *request) error {
	if missing := s.missing(); len(missing) > 0 {
		writeJSON(w, http.StatusServiceUnavailable, struct {
			errorBody
			Missing []string `json:"missing"`
		}{bodyOf(&framework.Error{Code: pb.CodeNotReady, Message: strings.Join(missing, "; ")}), missing})
		return nil
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := io.WriteString(w, "ready\n")
	return err
}

// localReplicas are this node's, by group.
func (s *Server) localReplicas() (groups []string, replicas []framework.ReplicaStatus) {
	for _, g := range s.svc.Self().Groups {
		if st, err := s.svc.LocalStatus(g); err == nil {
			groups = append(groups, g)
			replicas = append(replicas, st)
		}
	}
	return groups, replicas
}

// missing says in words what keeps this node from serving; nil when nothing
// does: it belongs to a cluster, and each of its replicas knows a leader and has
// a running machine.
func (s *Server) missing() []string {
	var out []string
	if s.stopping() {
		out = append(out, "the node is stopping")
	}
	if s.svc.Self().Cluster == (framework.UUID{}) {
		out = append(out, "the cluster has not formed yet")
	}
	names, replicas := s.localReplicas()
	for i, r := range replicas {
		name := names[i]
		switch {
		case r.Err != "":
			out = append(out, fmt.Sprintf("group %s: the replica has stopped: %s", name, r.Err))
		case r.Leader == "":
			out = append(out, fmt.Sprintf("group %s: no leader is known", name))
		}
		if r.Machine.State != "running" {
			m := fmt.Sprintf("group %s: the machine is %s", name, r.Machine.State)
			if r.Machine.Err != "" {
				m += ": " + r.Machine.Err
			}
			out = append(out, m)
		}
	}
	if s.cfg.Missing != nil {
		out = append(out, s.cfg.Missing()...)
	}
	return out
}

// Paths of the standard gRPC health service.
const (
	healthPrefix = "/grpc.health.v1.Health/"
	healthCheck  = healthPrefix + "Check"
	healthWatch  = healthPrefix + "Watch"
	// healthEvery is how often Watch looks.
	healthEvery = time.Second
)

// healthHandler serves grpc.health.v1: the node as a whole under "" and under
// the service's name. SERVING is what /readyz calls ready.
func (s *Server) healthHandler(o ...connect.HandlerOption) http.Handler {
	check := connect.NewUnaryHandler(healthCheck, s.checkHealth, o...)
	watch := connect.NewServerStreamHandler(healthWatch, s.watchHealth, o...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == healthWatch {
			watch.ServeHTTP(w, r)
			return
		}
		check.ServeHTTP(w, r)
	})
}

func (s *Server) healthOf(service string) (healthpb.HealthCheckResponse_ServingStatus, bool) {
	if service != "" && service != pb.DiarchyName {
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN, false
	}
	if len(s.missing()) > 0 {
		return healthpb.HealthCheckResponse_NOT_SERVING, true
	}
	return healthpb.HealthCheckResponse_SERVING, true
}

func (s *Server) checkHealth(_ context.Context, r *connect.Request[healthpb.HealthCheckRequest]) (*connect.Response[healthpb.HealthCheckResponse], error) {
	st, known := s.healthOf(r.Msg.Service)
	if !known {
		return nil, toConnect(&framework.Error{Code: pb.CodeNotFound, Message: "no service " + quote(r.Msg.Service)})
	}
	return connect.NewResponse(&healthpb.HealthCheckResponse{Status: st}), nil
}

func (s *Server) watchHealth(ctx context.Context, r *connect.Request[healthpb.HealthCheckRequest], out *connect.ServerStream[healthpb.HealthCheckResponse]) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	last := healthpb.HealthCheckResponse_UNKNOWN
	for {
		if st, _ := s.healthOf(r.Msg.Service); st != last {
			last = st
			if err := out.Send(&healthpb.HealthCheckResponse{Status: st}); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-s.stop:
			return toConnect(errStopping)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
