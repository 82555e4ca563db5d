package discovery

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// execSource runs a command and takes its output for addresses. It is the way
// to any cloud's interface without its library in this program.
type execSource struct {
	text    string
	args    []string
	timeout time.Duration
}

func (s *execSource) String() string { return s.text }

func (s *execSource) Addrs(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.args[0], s.args[1:]...)
	out, complaint := &headBuffer{max: sourceBytesMax}, &headBuffer{max: 1 << 10}
	cmd.Stdout, cmd.Stderr = out, complaint
	cmd.WaitDelay = time.Second
	ownProcessGroup(cmd)
	err := cmd.Run()
	switch {
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%s did not end within %v and was killed", s.args[0], s.timeout)
	case err != nil:
		if said := strings.TrimSpace(string(complaint.kept)); said != "" {
			return nil, fmt.Errorf("%s: %w: %s", s.args[0], err, said)
		}
		return nil, fmt.Errorf("%s: %w", s.args[0], err)
	case out.over:
		return nil, fmt.Errorf("%s printed more than %d bytes: expected one address a line", s.args[0], sourceBytesMax)
	}
	return parseAddrLines(string(out.kept))
}

// headBuffer keeps the beginning of what is written and swallows the rest. It
// has no other method: io.Copy would use a ReadFrom, past the bound.
type headBuffer struct {
	kept []byte
	max  int
	over bool
}

func (b *headBuffer) Write(p []byte) (int, error) {
	room := b.max - len(b.kept)
	b.over = b.over || len(p) > room
	b.kept = append(b.kept, p[:min(len(p), room)]...)
	return len(p), nil
}
