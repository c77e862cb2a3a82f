package metrics

import (
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Distributions is a Source that has histograms, too, which somebody else keeps.
type Distributions interface {
	// OpenDistributions is like Source.Open.
	OpenDistributions(key telemetry.ProcessKey) (r DistributionReading, since time.Time)
}

// DistributionReading reports the histograms of this moment: totals since the process began.
type DistributionReading func(telemetry.ObserveDistribution)

type openDistributions struct {
	read  DistributionReading
	since time.Time
}

// distributions turns what was read into data points. Their buckets are what they are,
// whichever kind of histogram a destination prefers.
func (o *observed) distributions() (out []metricdata.Metrics) {
	for _, r := range o.histograms {
		r.read(func(i *telemetry.Instrument, d telemetry.Distribution) {
			if len(d.Counts) != len(d.Bounds)+1 {
				return
			}
			t := o.temporality(measuredKind(telemetry.Histogram))
			p := metricdata.HistogramDataPoint[float64]{
				Attributes: *attribute.EmptySet(), StartTime: r.since, Time: o.now, Bounds: slices.Clone(d.Bounds),
				BucketCounts: slices.Clone(d.Counts), Sum: d.Sum,
			}
			if t == metricdata.DeltaTemporality {
				o.sinceBefore(i, d, &p)
			}
			for _, n := range p.BucketCounts {
				p.Count += n
			}
			out = append(out, metricdata.Metrics{
				Name: i.Name, Unit: i.Unit, Description: i.Description,
				Data: metricdata.Histogram[float64]{Temporality: t, DataPoints: []metricdata.HistogramDataPoint[float64]{p}},
			})
		})
	}
	return out
}

// sinceBefore leaves of p what came since the collection before. As with counters, what
// was there before the agent came is nobody's.
func (o *observed) sinceBefore(i *telemetry.Instrument, d telemetry.Distribution, p *metricdata.HistogramDataPoint[float64]) {
	base, known := o.before[i]
	if !known && p.StartTime.Before(o.e.s.began) {
		base, known = d, true
	}
	if known {
		p.StartTime = o.last
		if !grown(base, d) { // it began anew
			base = telemetry.Distribution{Counts: make([]uint64, len(d.Counts))}
		}
		for n := range p.BucketCounts {
			p.BucketCounts[n] -= base.Counts[n]
		}
		p.Sum -= base.Sum
	}
	if o.before == nil {
		o.before = map[*telemetry.Instrument]telemetry.Distribution{}
	}
	o.before[i] = telemetry.Distribution{Counts: slices.Clone(d.Counts), Sum: d.Sum}
}

func grown(from, to telemetry.Distribution) bool {
	if len(from.Counts) != len(to.Counts) {
		return false
	}
	for n := range from.Counts {
		if from.Counts[n] > to.Counts[n] {
			return false
		}
	}
	return true
}
