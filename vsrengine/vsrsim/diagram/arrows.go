package diagram

import (
	"math"

	"github.com/diarchy/diarchy/vsrengine/vsr"
	"github.com/diarchy/diarchy/vsrengine/vsrsim"
)

// class is a group of messages of one colour.
type class struct {
	name, color string
	kinds       []vsr.Kind
}

var classes = []class{
	{"prepare, acknowledge", "#3b6fb6", []vsr.Kind{vsr.Prepare, vsr.PrepareOK}},
	{"suspect", "#e08a1e", []vsr.Kind{vsr.StartViewChange}},
	{"view change", "#c2352b", []vsr.Kind{vsr.DoViewChange, vsr.Notice, vsr.StartView, vsr.GetView, vsr.Progress, vsr.HandOver}},
	{"state, repair", "#2f8f5b", []vsr.Kind{vsr.GetState, vsr.NewState, vsr.GetEntries, vsr.Entries}},
	{"snapshot", "#7b4fa3", []vsr.Kind{vsr.GetSnapshot, vsr.SnapshotOffer, vsr.GetChunk, vsr.Chunk}},
	{"recovery, membership", "#8a5a2b", []vsr.Kind{vsr.Recovery, vsr.RecoveryResponse, vsr.GetProof, vsr.Proof, vsr.EpochAhead}},
	{"heartbeat", "#c9ced8", []vsr.Kind{vsr.Commit, vsr.CommitOK}},
}

func color(k vsr.Kind) string {
	for _, c := range classes {
		for _, x := range c.kinds {
			if x == k {
				return c.color
			}
		}
	}
	return "#999"
}

// drawArrows draws every message that is sent or arrives within the window. One
// that is lost ends half way.
func (p *picture) drawArrows() {
	for i := range p.events {
		e := &p.events[i]
		if e.At < p.from || !p.drawn(e) {
			continue
		}
		switch e.Kind {
		case vsrsim.Arrived:
			if e.SentAt <= p.to {
				p.arrow(e)
			}
		case vsrsim.Dropped:
			if e.At <= p.to {
				p.lost(e)
			}
		}
	}
}

// arrow is clipped where it leaves the window.
func (p *picture) arrow(e *vsrsim.Event) {
	x1, y1 := p.x(e.SentAt), p.y(e.Peer)
	x2, y2 := p.x(e.At), p.y(e.Replica)
	full := float64(e.At - e.SentAt)
	whole := true
	if e.SentAt < p.from && full > 0 {
		y1 += (y2 - y1) * float64(p.from-e.SentAt) / full
	}
	if e.At > p.to && full > 0 {
		y2 = p.y(e.Peer) + (y2-p.y(e.Peer))*float64(p.to-e.SentAt)/full
		whole = false
	}
	c := color(e.Message)
	p.add(`<g><title>%s %d to %d, view %s, op %d</title><line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="1.1" opacity="0.85"/>`,
		e.Message, e.Peer, e.Replica, e.View, e.Op, x1, y1, x2, y2, c)
	if whole {
		p.head(x1, y1, x2, y2, c)
	}
	p.b.WriteString("</g>\n")
}

// head is the arrow's point, a little before the line it meets.
func (p *picture) head(x1, y1, x2, y2 float64, c string) {
	length := math.Hypot(x2-x1, y2-y1)
	if length < 1 {
		return
	}
	dx, dy := (x2-x1)/length, (y2-y1)/length
	tx, ty := x2-3*dx, y2-3*dy
	p.add(`<path d="M%.1f %.1f L%.1f %.1f L%.1f %.1f Z" fill="%s"/>`,
		tx, ty, tx-6*dx+2.6*dy, ty-6*dy-2.6*dx, tx-6*dx-2.6*dy, ty-6*dy+2.6*dx, c)
}

func (p *picture) lost(e *vsrsim.Event) {
	x1, y1 := p.x(e.At), p.y(e.Replica)
	y2 := y1 + (p.y(e.Peer)-y1)*0.4
	x2 := x1 + 7
	c := color(e.Message)
	p.add(`<g><title>%s %d to %d, lost</title><line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="1" stroke-dasharray="3 2" opacity="0.7"/>`,
		e.Message, e.Replica, e.Peer, x1, y1, x2, y2, c)
	p.add(`<text x="%.1f" y="%.1f" text-anchor="middle" font-size="9" fill="%s">✕</text></g>`, x2, y2+3, c)
}
