package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// plot draws the cost as work grows: three panels, as SVG. Its colours are read on a light and on a dark ground.
func (all *results) plot() string {
	_, tls := all.median(series{"growth-1000", true, "sluice"}, cpuPerEvent)
	streams := func(relay string, m measure) (points []point) {
		for _, n := range growth {
			if y, ok := all.median(series{fmt.Sprint("growth-", n), tls, relay}, m); ok {
				points = append(points, point{float64(n), y})
			}
		}
		return points
	}
	viewers := func(relay string, m measure) (points []point) {
		for _, n := range fanOut {
			if y, ok := all.median(series{fmt.Sprint("fanout-", n), false, relay}, m); ok {
				points = append(points, point{float64(n), y})
			}
		}
		return points
	}
	panels := []panel{
		{"CPU an event, µs", "open streams", math.Log, []line{{"nginx", peerColour, streams("nginx", cpuPerEvent)}, {"Sluice", ourColour, streams("sluice", cpuPerEvent)}}},
		{"Memory, MB", "open streams", linear, []line{{"nginx", peerColour, streams("nginx", memory)}, {"Sluice", ourColour, streams("sluice", memory)}}},
		{"CPU a delivered event, µs", "viewers of one stream", math.Log, []line{{"nchan", peerColour, viewers("nchan", cpuPerEvent)}, {"Sluice", ourColour, viewers("sluice", cpuPerEvent)}}},
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12" fill="%s">`+"\n", len(panels)*panelWidth, panelHeight, textColour)
	fmt.Fprintf(&b, "<title>The cost as work grows: %s upstream, medians</title>\n", upstreamName(tls))
	for i, p := range panels {
		p.draw(&b, i*panelWidth)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

const (
	panelWidth, panelHeight          = 340, 250
	left, right, top, bottom         = 46, 54, 34, 46 // around a panel's axes; on the right the lines' names
	textColour, gridColour           = "#768390", "#768390"
	ourColour, peerColour            = "#2f81f7", "#d9822b"
	axesWidth, axesHeight            = panelWidth - left - right, panelHeight - top - bottom
	ticks                            = 4
	lineHeight               float64 = 14
	labelWidth               float64 = 34 // of 8,000
)

type point struct{ x, y float64 }

type line struct {
	name, colour string
	points       []point
}

// panel has an axis for the amount of work and one from 0 for its cost.
type panel struct {
	title, xTitle string
	scale         func(float64) float64 // of the amount of work
	lines         []line
}

func linear(v float64) float64 { return v }

func (p *panel) draw(b *strings.Builder, offset int) {
	var least, most, highest float64 = math.Inf(1), 0, 0
	for _, l := range p.lines {
		for _, q := range l.points {
			least, most, highest = min(least, q.x), max(most, q.x), max(highest, q.y)
		}
	}
	if most == 0 {
		return // nothing was measured
	}
	step := niceStep(highest / ticks)
	ceiling := step * math.Ceil(highest/step)
	x := func(v float64) float64 {
		if most == least {
			return left + axesWidth/2
		}
		return left + axesWidth*(p.scale(v)-p.scale(least))/(p.scale(most)-p.scale(least))
	}
	y := func(v float64) float64 { return top + axesHeight*(1-v/ceiling) }

	fmt.Fprintf(b, `<g transform="translate(%d 0)">`+"\n", offset)
	fmt.Fprintf(b, `<text x="%d" y="18" font-weight="600">%s</text>`+"\n", left-30, p.title)
	for v := 0.0; v <= ceiling; v += step {
		fmt.Fprintf(b, `<path d="M%d %.1fh%d" stroke="%s" stroke-opacity="%.2f"/>`, left, y(v), axesWidth, gridColour, map[bool]float64{true: 1, false: .25}[v == 0])
		fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left-6, y(v)+4, thousands(v, digitsOf(step)))
	}
	label := math.Inf(-1)
	for _, q := range p.longest() {
		fmt.Fprintf(b, `<path d="M%.1f %dv4" stroke="%s"/>`, x(q.x), top+axesHeight, gridColour)
		if x(q.x) < label+labelWidth {
			continue // it would cover the one before
		}
		label = x(q.x)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" font-size="11" text-anchor="middle">%s</text>`+"\n", label, top+axesHeight+18, thousands(q.x, 0))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", left+axesWidth/2, panelHeight-8, p.xTitle)
	above := math.Inf(-1)
	for _, l := range p.fromTheTop() {
		var d strings.Builder
		for i, q := range l.points {
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(i, 1)], x(q.x), y(q.y))
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`, x(q.x), y(q.y), l.colour)
		}
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`, d.String(), l.colour)
		last := l.points[len(l.points)-1]
		above = max(y(last.y)+4, above+lineHeight) // names don't cover each other
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" fill="%s" font-weight="600">%s</text>`+"\n", x(last.x)+8, above, l.colour, l.name)
	}
	b.WriteString("</g>\n")
}

// longest are the points of the line that has most of them.
func (p *panel) longest() []point {
	return slices.MaxFunc(p.lines, func(a, b line) int { return cmp.Compare(len(a.points), len(b.points)) }).points
}

// fromTheTop are the lines that have points, the one that ends highest first.
func (p *panel) fromTheTop() []line {
	lines := slices.DeleteFunc(slices.Clone(p.lines), func(l line) bool { return len(l.points) == 0 })
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Compare(b.points[len(b.points)-1].y, a.points[len(a.points)-1].y)
	})
	return lines
}

// niceStep is 1, 2 or 5 times a power of ten, at least v.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, times := range []float64{1, 2, 5} {
		if times*power >= v {
			return times * power
		}
	}
	return 10 * power
}

// digitsOf is how many digits after the point a step needs.
func digitsOf(step float64) int { return max(0, int(math.Ceil(-math.Log10(step)))) }
