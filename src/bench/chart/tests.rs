use super::svg::escaped;
use super::*;

/// The elements of a drawing, checked to be properly nested: a small reader of what the writer may write.
fn elements(svg: &str) -> Vec<&str> {
    let mut open = Vec::new();
    let mut all = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a stray > in {}", &rest[..start]);
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        all.push(tag);
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    all
}

fn number(tag: &str, name: &str) -> Option<f64> {
    let (_, after) = tag.split_once(&format!(" {name}=\""))?;
    after.split('"').next()?.parse().ok()
}

/// Everything lies within the drawing.
fn within(svg: &str) {
    let all = elements(svg);
    let (width, height) = (number(all[0], "width").unwrap(), number(all[0], "height").unwrap());
    for tag in &all[1..] {
        for (name, most) in
            [("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("y1", height), ("cy", height)]
        {
            assert!(
                number(tag, name).is_none_or(|value| (0.0..=most).contains(&value)),
                "{tag} leaves {width}×{height}"
            );
        }
        let right = number(tag, "x").zip(number(tag, "width")).map_or(0.0, |(x, w)| x + w);
        assert!(right <= width + 0.01, "{tag} leaves the drawing on the right");
        assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
    }
}

#[test]
fn text_is_escaped() {
    assert_eq!(escaped("<b a=\"1\">&'\u{0}\n"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;\u{fffd} ");
    let bars = Bars {
        title: "</svg><script>alert(1)</script>".to_owned(),
        subtitle: "\" onload=\"x".to_owned(),
        bars: vec![Bar { label: "<&>".to_owned(), value: 1.0, ceiling: None, bar: None }],
        shared_scale: true,
    };
    let svg = bars.to_svg();
    within(&svg);
    assert!(!svg.contains("<script") && svg.contains("&lt;script"), "{svg}");
    assert!(elements(&svg).iter().all(|tag| !tag.contains("onload=\"")), "{svg}");
}

#[test]
fn bars_are_in_proportion() {
    let bar = |value, ceiling, bar| Bar { label: "x".to_owned(), value, ceiling, bar };
    let bars = Bars {
        title: "t".to_owned(),
        subtitle: String::new(),
        bars: vec![bar(50.0, Some(200.0), Some(90.0)), bar(100.0, None, None)],
        shared_scale: true,
    };
    let svg = bars.to_svg();
    within(&svg);
    let lengths = |class: &str| -> Vec<f64> {
        let wanted = format!("class=\"{class}\"");
        let bars = elements(&svg).into_iter().filter(|tag| tag.starts_with("rect") && tag.contains(&wanted));
        bars.map(|tag| number(tag, "width").unwrap()).collect()
    };
    let (data, ceiling) = (lengths("data"), lengths("faint"));
    assert!((data[0] * 4.0 - ceiling[0]).abs() < 0.3 && (data[0] * 2.0 - data[1]).abs() < 0.3, "{data:?} {ceiling:?}");
    assert!(svg.contains("(25 %)"), "{svg}");
}

#[test]
fn nothing_measured_is_drawn_all_the_same() {
    let bars = Bars { title: "t".to_owned(), subtitle: String::new(), bars: Vec::new(), shared_scale: true };
    within(&bars.to_svg());
    within(&Latencies { title: "t".to_owned(), rows: Vec::new() }.to_svg());
    let lines = Lines {
        title: "t".to_owned(),
        sizes_label: String::new(),
        sizes: Vec::new(),
        lines: vec![Line { label: "l".to_owned(), unit: "u".to_owned(), values: vec![0.0, f64::NAN] }],
        bar: None,
    };
    assert!(lines.to_svg().ends_with("</svg>\n"));
}

#[test]
fn latencies_go_from_left_to_right() {
    let row =
        Latency { label: "l".to_owned(), p50_ms: 1.0, p95_ms: 3.0, p99_ms: 9.0, max_ms: 80.0, bar_ms: Some(40.0) };
    let svg = Latencies { title: "t".to_owned(), rows: vec![row] }.to_svg();
    within(&svg);
    let dots: Vec<f64> = elements(&svg).into_iter().filter_map(|tag| number(tag, "cx")).take(3).collect();
    assert!(dots[0] < dots[1] && dots[1] < dots[2], "{dots:?}");
    // One to a hundred: 1 lies on the left edge, 10 in the middle.
    assert!((dots[0] - LEFT).abs() < 0.1, "{dots:?}");
}

#[test]
fn a_cost_that_grows_leaves_the_band() {
    let lines = |last| Lines {
        title: "t".to_owned(),
        sizes_label: "operations".to_owned(),
        sizes: vec!["1,000".to_owned(), "1,000,000".to_owned()],
        lines: vec![Line { label: "l".to_owned(), unit: "µs".to_owned(), values: vec![100.0, last] }],
        bar: Some(1.2),
    };
    let second = |svg: &str| {
        let dots: Vec<f64> = elements(svg).into_iter().filter_map(|tag| number(tag, "cy")).collect();
        let mark = elements(svg).into_iter().find(|tag| tag.contains("\"mark\"")).and_then(|tag| number(tag, "y1"));
        (dots[1], mark.unwrap())
    };
    let (flat, steep) = (lines(110.0).to_svg(), lines(150.0).to_svg());
    within(&flat);
    within(&steep);
    let ((flat_y, flat_mark), (steep_y, steep_mark)) = (second(&flat), second(&steep));
    assert!(flat_y > flat_mark && steep_y < steep_mark);
    assert!(steep.contains("(1.50×)"));
}
